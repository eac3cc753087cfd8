// One connection of the server. Internal to common/http.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/byte_budget.h"
#include "common/base/cancel.h"
#include "common/base/executor.h"
#include "common/http/cors.h"
#include "common/http/deadline_timer.h"
#include "common/http/request_reader.h"
#include "common/http/router.h"
#include "common/http/server.h"

namespace chord::http {

// The peer's address without port, an IPv4 one as such.
std::string AddressOf(const boost::asio::ip::tcp::socket& socket);

class ConnectionSet;

// What the connections of one server share; outlives them.
struct ServerContext {
  const Server::Options& options;
  const Router& router;
  const CorsPolicy& cors;
  ByteBudget& bodies;  // of requests
  Executor& executor;  // for handlers
  ConnectionSet& connections;
};

// All members are used on the socket's strand only. A handler gets a Request of its own and reaches
// the connection through a ResponseStream, whose calls are posted to the strand.
class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  // `peer`: the client's address where the socket does not know it; empty: the socket's.
  Connection(const ServerContext& context, boost::asio::ip::tcp::socket socket,
             std::string peer = "");
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Runs `method` on the strand. Thread-safe.
  void Post(void (Connection::*method)()) {
    boost::asio::post(socket_.get_executor(),
                      [self = shared_from_this(), method] { (*self.*method)(); });
  }
  void Start();
  void RejectOverCapacity();  // instead of Start
  void Drain();               // ends between requests
  void Abort();               // ends now
  void Evict();               // ends if no request is under way

 private:
  friend class ConnectionSet;
  using Clock = DeadlineTimer::Clock;
  using ErrorCode = boost::system::error_code;
  enum class Phase { kIdle, kHeader, kBody, kHandling, kStreaming, kWriting, kLingering, kClosed };
  class HandlerStream;

  // One request and what is known for its response; a new one for each.
  struct Exchange {
    Request request;  // without the body
    const Route* route = nullptr;
    bool head = false;  // a HEAD request
    int version = 11;
    Clock::time_point begun;
    int64_t body_bytes = 0;
    ByteBudget::Hold body;
    // Of the stretch of the body that is on its way, for its time.
    Clock::time_point stretch_begun;
    int64_t stretch_bytes = 0;
    absl::Status refusal;  // by the server
    Fields fields;         // of the response, whatever it is
    CancelSource cancel;
    bool close = true;  // after the response; until the header says otherwise
    size_t probed = 0;  // bytes of the response that have been sent to see whether the peer reads
  };
  // A streamed response. `pending` waits while another part is being written.
  struct Streamed {
    std::string pending;
    int status = 0;
    int64_t bytes = 0;
    bool chunked = false;
    bool events = false;  // server-sent events
    bool writing = false;
    bool ended = false;
  };

  // Reading.
  void Read();
  void OnRead(ErrorCode ec, size_t bytes);
  void OnEndOfInput();
  void RefuseCutRequest();
  void Advance();
  bool AdvanceReader();
  void OnNeedMore();
  void BeginRequest();
  void OnHeader();
  absl::Status CheckHeader();
  absl::Status Identify(const Route& route);
  absl::Status CheckBody();
  void SendContinue();
  bool CountBody(int64_t received);

  // Whether a peer that sends no more still reads.
  void WatchForReset();
  void Probe();
  void ProbeStream();
  void OnPeerLost();

  // Handling and writing.
  void Dispatch();
  Response Refusal(const absl::Status& status) const;
  void Refuse(const absl::Status& status);
  void Respond(Response response);
  std::string Head(int status, const std::string& content_type, const Fields& fields);
  void Report(int status, int64_t response_bytes);
  void BeginStream(ResponseStream::Head head);
  void StreamBytes(std::string bytes);
  void EndStream();
  void WriteStream();
  void OnWritten(ErrorCode ec);
  void Linger();
  void Close();

  void Enter(Phase phase);
  void SetDeadline(Clock::duration from_now);
  void SetDeadlineAt(Clock::time_point deadline);
  void OnTimeout();
  Clock::duration TransferTime(int64_t bytes) const;

  const ServerContext context_;
  boost::asio::ip::tcp::socket socket_;
  DeadlineTimer timer_;
  std::function<void()> on_timeout_;
  std::string peer_;  // address without port

  Phase phase_ = Phase::kIdle;
  bool reading_ = false;
  bool input_ended_ = false;  // the peer sends no more; it may still read
  bool peer_lost_ = false;    // the peer does not read either
  bool draining_ = false;
  std::vector<char> scratch_;
  std::string in_;  // received, not parsed

  std::optional<RequestReader> reader_;
  Exchange exchange_;
  Streamed streamed_;
  std::string out_head_, out_body_;  // being written

  // Of the ConnectionSet, under its lock.
  std::list<Connection*>::iterator place_;
  bool evictable_ = false;
};

}  // namespace chord::http
