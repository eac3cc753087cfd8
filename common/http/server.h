// The HTTP/1.1 server of the gateway and, for /metrics and probes, of the workers.
//
// Hostile clients are expected: every size is bounded before memory is taken for it, every phase of
// a connection has its time, and a refusal of any kind (malformed HTTP included) is
// application/problem+json with a request id. Connections are served by a few I/O threads;
// handlers run on a bounded pool and may block. A client that closes its connection while its
// handler runs fires Request::cancel; one that only shuts down its sending side gets its response
// (RFC 9112, 9.6). A handler may stream its response (Request::stream): chunked, or until the end
// of the connection for HTTP/1.0.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/certificates.h"
#include "common/http/message.h"

namespace chord::http {

class Server {
 public:
  // One answered (or refused) request, for logs and metrics.
  struct Exchange {
    std::string request_id;
    std::string client_request_id;  // "X-Request-Id" of the client when well-formed, else empty
    std::string method;             // as sent; empty when the header could not be read
    std::string route;              // the route's path, never the client's; empty when none matched
    int status = 0;
    absl::Status refusal;       // of a request that the server itself refused; else OK
    int64_t request_bytes = 0;  // of the body
    int64_t response_bytes = 0;
    absl::Duration duration;  // first byte seen to answer ready
  };

  struct Options {
    std::string address;  // host:port, [v6]:port, :port or port (all addresses); port 0: any
    int io_threads = 2;
    int handler_threads = 8;  // handlers at once; threads start when needed
    int max_queued = 16;      // requests that wait for a handler thread; more are OVERLOADED
    int max_connections = 512;
    int64_t max_header_bytes = 16 << 10;
    // Bodies held at once, of all connections, counted as their bytes come; several that arrive
    // from one peer have half of it. A body that does not fit is OVERLOADED.
    int64_t max_body_memory = 256LL << 20;
    absl::Duration header_timeout = absl::Seconds(10);  // first byte (or accept) to end of header
    absl::Duration idle_timeout = absl::Seconds(60);    // between requests of one connection
    // A transfer of n bytes may take body_grace + n / min_bytes_per_second; of a body each stretch
    // of body_grace · min_bytes_per_second bytes may.
    absl::Duration body_grace = absl::Seconds(10);
    int64_t min_bytes_per_second = 16 << 10;
    // Bytes of a streamed answer that wait for their client; one that leaves more unread is cut
    // off.
    int64_t max_stream_bytes = 4 << 20;
    // How long a refused client may go on sending before the connection is cut, so that it finds
    // the answer instead of a reset.
    absl::Duration linger = absl::Seconds(5);
    // HTTPS instead of HTTP, with the certificates that it holds when a connection comes; those
    // with authorities demand a certificate of every client. Null: HTTP.
    std::shared_ptr<CertificateFiles> tls;
    std::function<void()> on_handshake_failure;  // any thread; must not block. May be null.
    // Origins whose pages may read responses (cors.h); empty: none but the server's own.
    std::vector<std::string> cors_origins;
    // Asked after the header, before the route's own `admit`, on an I/O thread: may refuse the
    // request, put the client that a trusted proxy names in place of `request.peer`, and set
    // `request.key`. Must not block. May be null.
    std::function<absl::Status(const Route& route, Request& request)> identify;
    // Fields that every response to a route gets. Called after the header, on an I/O thread; must
    // not block. May be null.
    std::function<Fields(const Route& route, const Request& request)> response_fields;
    std::function<void(const Exchange&)> on_exchange;  // any thread; must not block. May be null.
    // The response of a request that the server itself refuses, for paths whose protocol has an
    // error format of its own. `request` has what was read so far. Null: Problem.
    std::function<Response(const absl::Status& status, const Request& request)> refusal;
  };

  // Listens and serves at once. CONFIG_INVALID when the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<Server>> Start(Options options, std::vector<Route> routes);

  ~Server();  // Shutdown(now) unless it has run
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  int port() const;
  std::string address() const;  // as bound: "127.0.0.1:8080"

  // Stops accepting and closes idle connections; requests under way finish (their responses say
  // "Connection: close") until `deadline`, then their tokens fire. Returns when all connections are
  // closed. Idempotent.
  void Shutdown(absl::Time deadline);

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace chord::http
