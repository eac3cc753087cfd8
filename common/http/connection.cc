#include "common/http/connection.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/write.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/http/connection_set.h"
#include "common/http/problem.h"
#include "common/http/response_writer.h"

namespace chord::http {
namespace {

namespace net = boost::asio;
using net::ip::tcp;

constexpr size_t kReadBytes = 4 << 10;
constexpr size_t kBodyReadBytes = 64 << 10;
// Bodies are counted in steps of this.
constexpr int64_t kReserveBytes = 64 << 10;
// Of phases that end by themselves: a handler has a deadline of its own.
constexpr auto kUnbounded = std::chrono::hours(1);
// How often a stream whose client sends no more is checked for one that has closed.
constexpr auto kStreamProbeInterval = std::chrono::seconds(1);
constexpr absl::string_view kEventComment = ":\n\n";

// Only methods of the standard may become a label.
std::string KnownMethod(absl::string_view method) {
  for (absl::string_view known : {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}) {
    if (method == known) return std::string(known);
  }
  return method.empty() ? "" : "OTHER";
}

}  // namespace

std::string AddressOf(const tcp::socket& socket) {
  boost::system::error_code ignored;
  net::ip::address address = socket.remote_endpoint(ignored).address();
  if (address.is_v6() && address.to_v6().is_v4_mapped()) {
    address = net::ip::make_address_v4(net::ip::v4_mapped, address.to_v6());
  }
  return address.to_string();
}

namespace {

Response RunHandler(const Route& route, Request request) {
  const std::string id = request.id;
  try {
    return route.handler(std::move(request));
  } catch (...) {
    return Problem(errors::Internal(), id);
  }
}

}  // namespace

Connection::Connection(const ServerContext& context, tcp::socket socket, std::string peer)
    : context_(context),
      socket_(std::move(socket)),
      timer_(socket_.get_executor()),
      on_timeout_([this] { OnTimeout(); }),
      peer_(peer.empty() ? AddressOf(socket_) : std::move(peer)) {}

Connection::~Connection() { context_.connections.Remove(this); }

void Connection::Start() {
  ErrorCode ignored;
  socket_.set_option(tcp::no_delay(true), ignored);
  socket_.set_option(net::socket_base::keep_alive(true), ignored);
  Enter(Phase::kIdle);
  SetDeadline(absl::ToChronoNanoseconds(context_.options.header_timeout));
  Advance();
}

void Connection::RejectOverCapacity() {
  BeginRequest();
  Refuse(errors::ConnectionLimit());
}

void Connection::Drain() {
  draining_ = true;
  if (phase_ == Phase::kIdle || phase_ == Phase::kLingering) Close();
}

void Connection::Abort() {
  draining_ = true;
  exchange_.cancel.Cancel(errors::ShuttingDown());
  // A handler that is told to stop still gets its response out; the rest has nothing to wait for.
  if (phase_ == Phase::kHandling || (phase_ == Phase::kStreaming && !streamed_.ended)) {
    exchange_.close = true;
  } else if (phase_ == Phase::kWriting || phase_ == Phase::kStreaming) {
    SetDeadline(std::chrono::seconds(1));
  } else {
    Close();
  }
}

void Connection::Evict() {
  if (phase_ == Phase::kIdle || phase_ == Phase::kHeader || phase_ == Phase::kLingering) Close();
}

void Connection::Enter(Phase phase) {
  phase_ = phase;
  context_.connections.SetEvictable(
      this, phase == Phase::kIdle || phase == Phase::kHeader || phase == Phase::kLingering);
}

void Connection::SetDeadline(Clock::duration from_now) { SetDeadlineAt(Clock::now() + from_now); }

void Connection::SetDeadlineAt(Clock::time_point deadline) {
  timer_.Set(shared_from_this(), &on_timeout_, deadline);
}

void Connection::OnTimeout() {
  if (phase_ == Phase::kHeader || phase_ == Phase::kBody) {
    Refuse(errors::RequestTimeout());
  } else if (phase_ == Phase::kHandling) {
    SetDeadline(kUnbounded);
    if (input_ended_) Probe();
  } else if (phase_ == Phase::kStreaming && !streamed_.writing) {
    ProbeStream();
  } else {
    Close();
  }
}

Connection::Clock::duration Connection::TransferTime(int64_t bytes) const {
  return absl::ToChronoNanoseconds(
      context_.options.body_grace +
      absl::Seconds(static_cast<double>(bytes) /
                    static_cast<double>(context_.options.min_bytes_per_second)));
}

void Connection::Read() {
  if (reading_ || input_ended_ || phase_ == Phase::kClosed) return;
  // A client that pipelines more than this waits for the responses to what it sent.
  const size_t limit = static_cast<size_t>(context_.options.max_header_bytes) + kBodyReadBytes;
  if (in_.size() >= limit) return;
  scratch_.resize(phase_ == Phase::kBody || phase_ == Phase::kLingering ? kBodyReadBytes
                                                                        : kReadBytes);
  reading_ = true;
  socket_.async_read_some(net::buffer(scratch_),
                          [self = shared_from_this()](ErrorCode ec, size_t bytes) {
                            self->reading_ = false;
                            self->OnRead(ec, bytes);
                          });
}

void Connection::OnRead(ErrorCode ec, size_t bytes) {
  if (phase_ == Phase::kClosed) return;
  if (ec) {
    input_ended_ = true;
    if (ec == net::error::eof) {
      OnEndOfInput();
    } else {
      OnPeerLost();
    }
    return;
  }
  if (phase_ == Phase::kLingering) return Read();
  in_.append(scratch_.data(), bytes);
  if (phase_ == Phase::kHandling || phase_ == Phase::kStreaming || phase_ == Phase::kWriting) {
    return Read();  // goes on watching for the end of the connection
  }
  Advance();
}

// The peer has ended its sending side. It may have closed the connection, or it may wait for its
// response (RFC 9112, 9.6): both look the same until something is sent.
void Connection::OnEndOfInput() {
  switch (phase_) {
    case Phase::kHandling:
      WatchForReset();
      return Probe();
    case Phase::kStreaming:
      WatchForReset();
      return ProbeStream();
    case Phase::kWriting:
    case Phase::kClosed:
      return;
    case Phase::kHeader:
    case Phase::kBody:
      return RefuseCutRequest();
    case Phase::kIdle:
    case Phase::kLingering:
      return Close();
  }
}

// A client that stops sending in the middle of a request may still read why it is refused.
void Connection::RefuseCutRequest() {
  Refuse(errors::RequestMalformed("it ends before its header or its body is complete"));
}

void Connection::WatchForReset() {
  socket_.async_wait(tcp::socket::wait_error, [self = shared_from_this()](ErrorCode ec) {
    if (!ec) self->OnPeerLost();
  });
}

// Sends the next byte of what every response begins with. A peer that has closed the connection
// answers with a reset; one that waits for its response finds the byte at its place.
void Connection::Probe() {
  if (phase_ != Phase::kHandling || exchange_.probed == kResponsePrefix.size()) return;
  ErrorCode ec;
  socket_.non_blocking(true, ec);
  const size_t sent =
      socket_.write_some(net::buffer(kResponsePrefix.data() + exchange_.probed, 1), ec);
  if (ec && ec != net::error::would_block) return OnPeerLost();
  SetDeadline(std::chrono::seconds(1) * (1 << exchange_.probed));
  exchange_.probed += sent;
}

// The same for a stream that has begun: a comment between two events, which readers skip. Streams
// of other types are probed by their own writes.
void Connection::ProbeStream() {
  if (!streamed_.events || streamed_.writing) return;
  StreamBytes(std::string(kEventComment));
}

void Connection::OnPeerLost() {
  peer_lost_ = true;
  if (phase_ == Phase::kHandling || phase_ == Phase::kStreaming) {
    exchange_.cancel.Cancel(errors::Cancelled());
  } else if (phase_ != Phase::kWriting) {
    Close();
  }
}

void Connection::BeginRequest() {
  reader_.emplace(context_.options.max_header_bytes);
  exchange_ = Exchange();
  exchange_.request.id = NewRequestId();
  exchange_.request.peer = peer_;
  exchange_.request.received_at = absl::Now();
  exchange_.begun = Clock::now();
  exchange_.body = context_.bodies.Open(peer_);
  streamed_ = Streamed();
  Enter(Phase::kHeader);
  SetDeadline(absl::ToChronoNanoseconds(context_.options.header_timeout));
}

void Connection::Advance() {
  while (phase_ == Phase::kIdle || phase_ == Phase::kHeader || phase_ == Phase::kBody) {
    // An empty line may precede a request (RFC 9112, 2.2).
    if (phase_ == Phase::kIdle) in_.erase(0, std::min(in_.find_first_not_of("\r\n"), in_.size()));
    if (in_.empty()) {
      if (input_ended_) return OnEndOfInput();
      if (draining_ && phase_ == Phase::kIdle) return Close();
      return Read();
    }
    if (phase_ == Phase::kIdle) BeginRequest();
    if (!AdvanceReader()) return;
  }
}

// One step of the reader; a complete or refused request leaves the phase. False when it needs more
// bytes than are here.
bool Connection::AdvanceReader() {
  const absl::StatusOr<RequestReader::Step> step = reader_->Advance(in_);
  if (!step.ok()) {
    Refuse(step.status());
    return true;
  }
  if (phase_ == Phase::kBody && reader_->used() > 0 &&
      !CountBody(static_cast<int64_t>(reader_->used()))) {
    Refuse(errors::Overloaded(absl::Seconds(1)));
    return true;
  }
  switch (*step) {
    case RequestReader::Step::kHeader:
      OnHeader();
      return true;
    case RequestReader::Step::kDone:
      Dispatch();
      return true;
    case RequestReader::Step::kProgress:
      return true;
    case RequestReader::Step::kNeedMore:
      OnNeedMore();
      return false;
  }
  return false;
}

void Connection::OnNeedMore() {
  const int64_t header_limit = context_.options.max_header_bytes;
  if (in_.size() > static_cast<size_t>(header_limit) + kBodyReadBytes - kReadBytes) {
    Refuse(errors::HeadersTooLarge(header_limit));
  } else if (input_ended_) {
    RefuseCutRequest();
  } else {
    Read();
  }
}

// What the header says, checked in the order of the answers a client can use best.
absl::Status Connection::CheckHeader() {
  Request& request = exchange_.request;
  const absl::Status header = reader_->ReadHeader(request);
  exchange_.version = reader_->version();
  exchange_.head = request.method == "HEAD";
  exchange_.fields = context_.cors.ForResponse(request.field("origin"));
  if (!header.ok()) return header;

  Routed routed = context_.router.Find(request.method, request.path, request.query);
  exchange_.route = routed.route;
  if (!routed.allow.empty()) exchange_.fields.emplace_back("Allow", std::move(routed.allow));
  if (context_.cors.IsPreflight(request) && (routed.options || routed.route != nullptr)) {
    exchange_.route = nullptr;
    for (auto& field : context_.cors.ForPreflight(context_.router.Allow(request.path))) {
      exchange_.fields.push_back(std::move(field));
    }
    return absl::OkStatus();
  }
  if (!routed.problem.ok()) return routed.problem;
  if (exchange_.route == nullptr) return absl::OkStatus();
  if (absl::Status status = Identify(*exchange_.route); !status.ok()) return status;
  return CheckBody();
}

absl::Status Connection::Identify(const Route& route) {
  const Server::Options& options = context_.options;
  Request& request = exchange_.request;
  absl::Status status;
  if (options.identify) {
    status = options.identify(route, request);
    if (absl::IsUnauthenticated(status)) {
      exchange_.fields.emplace_back("WWW-Authenticate", "Bearer realm=\"chord\"");
    }
    // The body counts for the client that sends it, not for a proxy that it came through.
    if (request.peer != peer_) exchange_.body = context_.bodies.Open(request.peer);
  }
  if (options.response_fields) {
    for (auto& field : options.response_fields(route, request)) {
      exchange_.fields.push_back(std::move(field));
    }
  }
  return status;
}

absl::Status Connection::CheckBody() {
  const Route& route = *exchange_.route;
  const absl::string_view expect = exchange_.request.field("expect");
  if (!expect.empty() && !absl::EqualsIgnoreCase(expect, "100-continue")) {
    return errors::ExpectationUnsupported();
  }
  const std::optional<uint64_t> length = reader_->content_length();
  const bool has_body = reader_->has_body();
  if (has_body && route.body_limit == 0) {
    return errors::RequestMalformed("this address takes no body");
  }
  if (length && *length > static_cast<uint64_t>(route.body_limit)) {
    return errors::BodyTooLarge(route.body_limit);
  }
  if (route.admit) {
    if (absl::Status status = route.admit(exchange_.request); !status.ok()) return status;
  }
  if (has_body) {
    if (!context_.bodies.HasRoom(length ? static_cast<int64_t>(*length) : 1)) {
      return errors::Overloaded(absl::Seconds(1));
    }
    reader_->SetBodyLimit(route.body_limit);
  }
  return absl::OkStatus();
}

void Connection::OnHeader() {
  const absl::Status status = CheckHeader();
  // What follows the header of a request that is not dispatched is not read, so nothing after it
  // can be told from it.
  exchange_.close = !reader_->keep_alive() || errors::Is(status, Reason::kRequestMalformed);
  if (!status.ok() || exchange_.route == nullptr) exchange_.close |= !reader_->done();
  if (!status.ok()) {
    exchange_.refusal = status;
    return Respond(Refusal(status));
  }
  if (exchange_.route == nullptr) {  // OPTIONS
    Response response;
    response.status = 204;
    return Respond(std::move(response));
  }
  Enter(Phase::kBody);
  exchange_.stretch_begun = Clock::now();
  SetDeadline(TransferTime(0));
  if (reader_->done()) return Dispatch();
  if (in_.empty() && exchange_.version >= 11 && !exchange_.request.field("expect").empty()) {
    SendContinue();
  }
}

// All earlier responses have been handed to the kernel, so these few bytes fit; a client that does
// not get them sends its body after a while anyway.
void Connection::SendContinue() {
  constexpr absl::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
  ErrorCode ignored;
  socket_.non_blocking(true, ignored);
  socket_.write_some(net::buffer(kContinue.data(), kContinue.size()), ignored);
}

// Memory and time of a body whose next bytes are here. False: there is no room for them.
bool Connection::CountBody(int64_t received) {
  exchange_.body_bytes += received;
  // Each stretch has its own time, so that what came fast earns no long silence afterwards.
  const Server::Options& options = context_.options;
  const auto stretch = static_cast<int64_t>(absl::ToDoubleSeconds(options.body_grace) *
                                            static_cast<double>(options.min_bytes_per_second));
  exchange_.stretch_bytes += received;
  if (exchange_.stretch_bytes >= stretch) {
    exchange_.stretch_begun = Clock::now();
    exchange_.stretch_bytes = 0;
  }
  SetDeadlineAt(exchange_.stretch_begun + TransferTime(exchange_.stretch_bytes));
  const int64_t missing = exchange_.body_bytes - exchange_.body.bytes();
  if (missing <= 0) return true;
  return exchange_.body.Receive((missing + kReserveBytes - 1) / kReserveBytes * kReserveBytes);
}

// A handler's end of a streamed response. Its calls go to the strand in their order.
class Connection::HandlerStream final : public ResponseStream {
 public:
  HandlerStream(std::shared_ptr<Connection> connection, CancelToken cancel)
      : connection_(std::move(connection)), cancel_(std::move(cancel)) {}
  bool begun() const { return begun_; }

  void Begin(Head head) override {
    begun_ = true;
    net::post(connection_->socket_.get_executor(),
              [self = connection_, head = std::move(head)]() mutable {
                self->BeginStream(std::move(head));
              });
  }

  bool Write(std::string bytes) override {
    if (cancel_.cancelled()) return false;
    if (bytes.empty()) return true;
    net::post(connection_->socket_.get_executor(),
              [self = connection_, bytes = std::move(bytes)]() mutable {
                self->StreamBytes(std::move(bytes));
              });
    return true;
  }

 private:
  const std::shared_ptr<Connection> connection_;
  const CancelToken cancel_;
  std::atomic<bool> begun_{false};
};

void Connection::Dispatch() {
  exchange_.body.Arrived();
  exchange_.request.cancel = exchange_.cancel.token();
  Request request = exchange_.request;
  request.body = reader_->TakeBody();
  if (exchange_.head) request.method = "GET";
  reader_.reset();
  Enter(Phase::kHandling);
  SetDeadline(kUnbounded);

  const Route& route = *exchange_.route;
  if (route.quick) return Respond(RunHandler(route, std::move(request)));
  if (input_ended_) {
    OnEndOfInput();
  } else {
    Read();  // watches for the end of the connection
  }
  auto task = [self = shared_from_this(), &route,
               request = std::make_shared<Request>(std::move(request))] {
    HandlerStream stream(self, request->cancel);
    request->stream = &stream;
    Response response = RunHandler(route, std::move(*request));
    net::post(self->socket_.get_executor(),
              [self, streamed = stream.begun(), response = std::move(response)]() mutable {
                if (streamed) {
                  self->EndStream();
                } else {
                  self->Respond(std::move(response));
                }
              });
  };
  if (!context_.executor.TryRun(std::move(task))) {
    exchange_.refusal = errors::Overloaded(absl::Seconds(1));
    Respond(Refusal(exchange_.refusal));
  }
}

Response Connection::Refusal(const absl::Status& status) const {
  const auto& refusal = context_.options.refusal;
  return refusal ? refusal(status, exchange_.request) : Problem(status, exchange_.request.id);
}

void Connection::Refuse(const absl::Status& status) {
  exchange_.refusal = status;
  exchange_.close = true;
  Respond(Refusal(status));
}

std::string Connection::Head(int status, const std::string& content_type, const Fields& fields) {
  exchange_.close |= draining_ || peer_lost_ || (input_ended_ && in_.empty());
  std::string out = WriteHead({.status = status,
                               .content_type = content_type,
                               .request_id = exchange_.request.id,
                               .client_id = exchange_.request.client_id,
                               .fields = {&exchange_.fields, &fields},
                               .close = exchange_.close,
                               .old_keep_alive = exchange_.version < 11});
  out.erase(0, exchange_.probed);
  return out;
}

void Connection::Report(int status, int64_t response_bytes) {
  if (!context_.options.on_exchange) return;
  Server::Exchange exchange;
  exchange.request_id = exchange_.request.id;
  exchange.client_request_id = exchange_.request.client_id;
  exchange.method = KnownMethod(exchange_.request.method);
  exchange.route = exchange_.route == nullptr ? "" : exchange_.route->path;
  exchange.status = status;
  exchange.refusal = exchange_.refusal;
  exchange.request_bytes = exchange_.body_bytes;
  exchange.response_bytes = response_bytes;
  exchange.duration = absl::FromChrono(Clock::now() - exchange_.begun);
  context_.options.on_exchange(exchange);
}

void Connection::Respond(Response response) {
  if (phase_ == Phase::kClosed) return;
  reader_.reset();
  exchange_.body.Release();
  const bool bodiless = response.status == 204 || response.status == 304 || response.status < 200;
  if (!bodiless) {
    response.fields.emplace_back("Content-Length", absl::StrCat(response.body.size()));
  }
  out_head_ = Head(response.status, response.content_type, response.fields);
  out_body_ = exchange_.head || bodiless ? std::string() : std::move(response.body);
  Report(response.status, static_cast<int64_t>(out_body_.size()));

  Enter(Phase::kWriting);
  SetDeadline(TransferTime(static_cast<int64_t>(out_head_.size() + out_body_.size())));
  const std::array<net::const_buffer, 2> buffers = {net::buffer(out_head_), net::buffer(out_body_)};
  net::async_write(socket_, buffers,
                   [self = shared_from_this()](ErrorCode ec, size_t) { self->OnWritten(ec); });
}

void Connection::BeginStream(ResponseStream::Head head) {
  if (phase_ != Phase::kHandling) return;
  exchange_.body.Release();
  streamed_.chunked = exchange_.version >= 11;
  if (!streamed_.chunked) exchange_.close = true;  // its end is the response's
  if (streamed_.chunked) head.fields.emplace_back("Transfer-Encoding", "chunked");
  streamed_.events = absl::StartsWith(head.content_type, "text/event-stream");
  streamed_.status = head.status;
  streamed_.pending = Head(head.status, head.content_type, head.fields);
  Enter(Phase::kStreaming);
  WriteStream();
}

void Connection::StreamBytes(std::string bytes) {
  if (phase_ != Phase::kStreaming || streamed_.ended) return;
  streamed_.bytes += static_cast<int64_t>(bytes.size());
  if (exchange_.head) return;
  if (streamed_.chunked) {
    AppendChunk(bytes, streamed_.pending);
  } else {
    streamed_.pending += bytes;
  }
  // A client that does not read is cut off; its token tells the handler.
  if (static_cast<int64_t>(streamed_.pending.size()) > context_.options.max_stream_bytes) {
    return Close();
  }
  WriteStream();
}

void Connection::EndStream() {
  if (phase_ != Phase::kStreaming) return;
  streamed_.ended = true;
  if (streamed_.chunked && !exchange_.head) absl::StrAppend(&streamed_.pending, kLastChunk);
  Report(streamed_.status, streamed_.bytes);
  WriteStream();
}

void Connection::WriteStream() {
  if (streamed_.writing) return;
  if (streamed_.pending.empty()) {
    if (streamed_.ended) return OnWritten({});
    return SetDeadline(input_ended_ && streamed_.events ? kStreamProbeInterval : kUnbounded);
  }
  out_body_.swap(streamed_.pending);
  streamed_.pending.clear();
  streamed_.writing = true;
  SetDeadline(TransferTime(static_cast<int64_t>(out_body_.size())));
  net::async_write(socket_, net::buffer(out_body_),
                   [self = shared_from_this()](ErrorCode ec, size_t) {
                     if (self->phase_ == Phase::kClosed) return;
                     self->streamed_.writing = false;
                     if (ec) {
                       self->Close();
                     } else {
                       self->WriteStream();
                     }
                   });
}

void Connection::OnWritten(ErrorCode ec) {
  if (phase_ == Phase::kClosed) return;
  out_head_.clear();
  std::string().swap(out_body_);
  if (ec || peer_lost_ || draining_) return Close();
  if (exchange_.close) return Linger();
  Enter(Phase::kIdle);
  SetDeadline(absl::ToChronoNanoseconds(context_.options.idle_timeout));
  Advance();
}

// Closing with unread bytes makes the kernel reset the connection, and the response is lost on a
// client that is still sending: it gets a while to find it.
void Connection::Linger() {
  if (input_ended_) return Close();
  ErrorCode ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  in_.clear();
  Enter(Phase::kLingering);
  SetDeadline(absl::ToChronoNanoseconds(context_.options.linger));
  Read();
}

void Connection::Close() {
  if (phase_ == Phase::kClosed) return;
  exchange_.cancel.Cancel(errors::Cancelled());
  Enter(Phase::kClosed);
  exchange_.body.Release();
  timer_.Stop();
  ErrorCode ignored;
  socket_.shutdown(tcp::socket::shutdown_both, ignored);
  socket_.close(ignored);
}

}  // namespace chord::http
