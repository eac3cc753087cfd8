// An asynchronous HTTP/1.1 client for our own tools: many exchanges at once on one thread. It asks
// one server, keeps connections for the next exchange, follows no redirect and repeats nothing.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/http/message.h"

namespace chord::http {

struct ClientRequest {
  std::string method = "POST";
  std::string path = "/";
  Fields fields;  // Host and Content-Length are added
  // Sent one after the other without being copied: what repeats between requests is shared.
  std::vector<std::shared_ptr<const std::string>> body;
  // From Send to the end of the answer; then the exchange ends as DEADLINE_EXCEEDED.
  absl::Duration timeout = absl::Seconds(60);
};

class Client {
 public:
  struct Options {
    std::string address;  // host:port, [v6]:port or :port (this host)
    int64_t max_header_bytes = 64 << 10;
    int64_t max_body_bytes = 16 << 20;  // of an answer
    // A kept connection that has been idle for longer is not used again: the server may be closing
    // it at this very moment.
    absl::Duration max_idle = absl::Seconds(5);
  };

  // Resolves the address; no connection is made yet. CONFIG_INVALID when it is not known.
  static absl::StatusOr<std::unique_ptr<Client>> Start(Options options);
  // CancelAll; every `done` has been called when it returns.
  virtual ~Client() = default;

  // `on_body` (may be null) sees each part of the answer's body as it comes, whatever the status,
  // and must not block. `done` is called exactly once: with the answer, whatever its HTTP status,
  // or with DEADLINE_EXCEEDED, CANCELLED or UNAVAILABLE (no connection, or an answer that is cut
  // or malformed). Both are called on the client's thread, also when Send fails at once.
  // Thread-safe.
  virtual void Send(ClientRequest request, std::function<void(absl::string_view)> on_body,
                    std::function<void(absl::StatusOr<Response>)> done) = 0;

  // Ends what is under way as CANCELLED. Thread-safe; returns at once.
  virtual void CancelAll() = 0;
};

}  // namespace chord::http
