#include "common/http/server.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/parser.hpp>
#include <limits>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/executor.h"
#include "common/base/ids.h"
#include "common/http/problem.h"

namespace chord::http {

absl::string_view Request::field(absl::string_view lower_case_name) const {
  for (const auto& [name, value] : fields) {
    if (name == lower_case_name) return value;
  }
  return {};
}

namespace {

namespace net = boost::asio;
namespace beast_http = boost::beast::http;
using boost::system::error_code;
using net::ip::tcp;
using Clock = std::chrono::steady_clock;

constexpr size_t kReadBytes = 4 << 10;
constexpr size_t kBodyReadBytes = 64 << 10;
// Bodies are counted in steps of this.
constexpr int64_t kReserveBytes = 64 << 10;
// Connections over the cap that may wait for an evicted one to be gone.
constexpr int kEvictionSlack = 64;

Clock::duration ToClock(absl::Duration d) { return absl::ToChronoNanoseconds(d); }
absl::string_view View(boost::beast::string_view v) { return {v.data(), v.size()}; }

bool IsRequestId(absl::string_view text) {
  if (text.size() < 8 || text.size() > 64) return false;
  return std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '-';
  });
}

// Only methods of the standard may become a label.
std::string KnownMethod(absl::string_view method) {
  for (absl::string_view known : {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}) {
    if (method == known) return std::string(known);
  }
  return "OTHER";
}

// A body that takes memory as its bytes come: what a client only announces costs nothing.
struct GrowingBody {
  using value_type = std::string;
  class reader {
   public:
    template <bool isRequest, class Fields>
    reader(beast_http::header<isRequest, Fields>&, value_type& body) : body_(body) {}
    void init(const boost::optional<uint64_t>& length, error_code& ec) {
      ec = {};
      if (length) length_ = static_cast<size_t>(*length);
    }
    template <class ConstBufferSequence>
    size_t put(const ConstBufferSequence& buffers, error_code& ec) {
      ec = {};
      const size_t bytes = net::buffer_size(buffers), size = body_.size() + bytes;
      // Doubles, but never beyond what was announced.
      if (size > body_.capacity() && length_ >= size) {
        body_.reserve(std::min(length_, std::max<size_t>(2 * size, 4 << 10)));
      }
      for (auto at = net::buffer_sequence_begin(buffers); at != net::buffer_sequence_end(buffers);
           ++at) {
        const net::const_buffer buffer = *at;
        body_.append(static_cast<const char*>(buffer.data()), buffer.size());
      }
      return bytes;
    }
    void finish(error_code& ec) { ec = {}; }

   private:
    value_type& body_;
    size_t length_ = 0;  // 0: not announced
  };
};

// A version that is not ours, and not a request line that is broken elsewhere: the parser takes
// whatever stands behind the second blank for the version.
bool NamesAVersion(absl::string_view received) {
  absl::string_view line = received.substr(0, received.find('\n'));
  const size_t blank = line.rfind(' ');
  if (blank == absl::string_view::npos) return false;
  line.remove_prefix(blank + 1);
  return absl::ConsumePrefix(&line, "HTTP/") && line.size() == 4 && absl::ascii_isdigit(line[0]) &&
         line[1] == '.' && absl::ascii_isdigit(line[2]) && line[3] == '\r' &&
         !absl::StartsWith(line, "1.0") && !absl::StartsWith(line, "1.1");
}

absl::Status FromParser(error_code ec, absl::string_view received, int64_t header_limit,
                        int64_t body_limit) {
  using beast_http::error;
  if (ec == error::header_limit || ec == error::buffer_overflow) {
    return errors::HeadersTooLarge(header_limit);
  }
  if (ec == error::body_limit) return errors::BodyTooLarge(body_limit);
  if (ec == error::bad_version && NamesAVersion(received)) return errors::HttpVersionUnsupported();
  if (ec == error::bad_version || ec == error::bad_method || ec == error::bad_target) {
    return errors::RequestMalformed("the request line cannot be read");
  }
  if (ec == error::bad_content_length) {
    return errors::RequestMalformed("Content-Length is not one plain number");
  }
  if (ec == error::bad_transfer_encoding) {
    return errors::RequestMalformed("Transfer-Encoding is not chunked alone");
  }
  if (ec == error::bad_chunk || ec == error::bad_chunk_extension) {
    return errors::RequestMalformed("a chunk of the body cannot be read");
  }
  return errors::RequestMalformed("the header cannot be read");
}

class ServerImpl;

// One connection. All members are touched on the socket's strand only; the handler works on a
// Request that it shares with nobody.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(ServerImpl& server, tcp::socket socket);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void Post(void (Session::*method)()) {
    net::post(socket_.get_executor(), [self = shared_from_this(), method] { (*self.*method)(); });
  }
  void Start();
  void RejectOverCapacity();  // instead of Start: over the cap
  void Drain();               // ends between requests
  void Abort();               // ends now
  void Evict();               // ends if no request is under way

  // Owned by the server, under its mutex.
  std::list<Session*>::iterator place;
  bool evictable = false;

 private:
  enum class Phase { kIdle, kHeader, kBody, kHandling, kStreaming, kWriting, kLingering, kClosed };
  class Stream;

  void Read();
  void OnRead(error_code ec, size_t bytes);
  void EndOfInput();
  void Advance();
  void BeginRequest();
  void OnHeader();
  absl::Status CheckHeader();
  void Dispatch();
  void Refuse(const absl::Status& status);
  void Respond(Response response);
  std::string Head(int status, const std::string& content_type, const Fields& fields) const;
  void Report(int status, int64_t response_bytes);
  void BeginStream(ResponseStream::Head head);
  void StreamBytes(std::string bytes);
  void EndStream();
  void WriteStream();
  void OnWritten(error_code ec);
  void Linger();
  void Close();
  void Enter(Phase phase);
  void SetDeadline(Clock::duration from_now) { SetDeadlineAt(Clock::now() + from_now); }
  void SetDeadlineAt(Clock::time_point deadline);
  void WaitTimer();
  void OnTimeout();
  Clock::duration TransferTime(int64_t bytes) const;
  bool CountBody(int64_t received);
  void BodyArrived();
  void ReleaseBody();

  ServerImpl& server_;
  tcp::socket socket_;
  net::steady_timer timer_;
  Clock::time_point deadline_ = Clock::time_point::max();
  Clock::time_point armed_ = Clock::time_point::max();
  bool waiting_ = false;

  Phase phase_ = Phase::kIdle;
  bool reading_ = false;
  bool peer_gone_ = false;
  bool draining_ = false;
  bool close_after_ = false;
  std::vector<char> scratch_;
  std::string in_;  // received, not parsed

  std::optional<beast_http::request_parser<GrowingBody>> parser_;
  Request request_;
  std::string peer_;
  const Route* route_ = nullptr;
  bool head_ = false;
  int version_ = 11;
  Clock::time_point begun_;
  int64_t body_received_ = 0;
  int64_t body_reserved_ = 0;
  bool body_arriving_ = false;  // with some of it reserved
  // Of the stretch of the body that is on its way, for its time.
  Clock::time_point stretch_begun_;
  int64_t stretch_bytes_ = 0;
  std::string reason_;  // of a refusal by the server
  Fields extra_;        // of the answer in the making
  CancelSource cancel_;
  std::string out_head_, out_body_;

  // Of a streamed answer. `pending_` waits while out_body_ is being written.
  std::string pending_;
  int stream_status_ = 0;
  int64_t streamed_ = 0;
  bool chunked_ = false;
  bool stream_writing_ = false;
  bool stream_ended_ = false;
};

class ServerImpl : public Server {
 public:
  ServerImpl(Options opts, std::vector<Route> table)
      : options(std::move(opts)),
        routes(std::move(table)),
        io(options.io_threads),
        acceptor_(net::make_strand(io)),
        retry_(acceptor_.get_executor()),
        executor_(std::make_unique<Executor>(options.handler_threads, options.max_queued)) {}
  ~ServerImpl() override { Shutdown(absl::Now()); }

  absl::Status Listen();
  int port() const override { return endpoint_.port(); }
  std::string address() const override {
    const std::string host = endpoint_.address().to_string();
    return endpoint_.address().is_v6() ? absl::StrCat("[", host, "]:", port())
                                       : absl::StrCat(host, ":", port());
  }
  void Shutdown(absl::Time deadline) override;

  bool Submit(std::function<void()> task) { return executor_->TryRun(std::move(task)); }
  void Add(const std::shared_ptr<Session>& session, bool room);
  void Forget(Session* session);
  void SetEvictable(Session* session, bool evictable);
  // Room for `bytes` of a body to come; takes nothing.
  bool HasCapacity(int64_t bytes);
  // `first`: of a body that has none yet. False: all bodies, or those that arrive from this peer,
  // have as much as they may.
  bool ReserveBody(const std::string& peer, bool first, int64_t bytes);
  void BodyArrived(const std::string& peer, int64_t bytes);  // all of it, or no more comes
  void ReleaseBody(int64_t bytes);

  const Options options;
  const std::vector<Route> routes;
  net::io_context io;

 private:
  void Accept();
  void OnAccept(error_code ec, tcp::socket socket);
  bool EvictOldest();  // false: all have requests under way
  void ForEach(void (Session::*method)());

  // A handler may finish when nothing else is left to do on the I/O threads.
  const net::executor_work_guard<net::io_context::executor_type> work_ = net::make_work_guard(io);
  tcp::acceptor acceptor_;
  net::steady_timer retry_;
  tcp::endpoint endpoint_;
  std::unique_ptr<Executor> executor_;
  std::vector<std::thread> threads_;
  std::once_flag shut_down_;

  struct PeerBodies {
    int bodies = 0;
    int64_t bytes = 0;
  };
  absl::Mutex bodies_mu_;
  int64_t body_memory_ ABSL_GUARDED_BY(bodies_mu_) = 0;
  // Of bodies that arrive: how long that takes is their client's to say.
  std::unordered_map<std::string, PeerBodies> peer_bodies_ ABSL_GUARDED_BY(bodies_mu_);

  absl::Mutex mu_;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  int sessions_ ABSL_GUARDED_BY(mu_) = 0;
  std::list<Session*> busy_ ABSL_GUARDED_BY(mu_);
  std::list<Session*> idle_ ABSL_GUARDED_BY(mu_);  // the one that waits longest is first
};

// --- Session ------------------------------------------------------------------------------------

Session::Session(ServerImpl& server, tcp::socket socket)
    : server_(server), socket_(std::move(socket)), timer_(socket_.get_executor()) {
  error_code ignored;
  net::ip::address address = socket_.remote_endpoint(ignored).address();
  if (address.is_v6() && address.to_v6().is_v4_mapped()) {
    address = net::ip::make_address_v4(net::ip::v4_mapped, address.to_v6());
  }
  peer_ = address.to_string();
}

Session::~Session() {
  ReleaseBody();
  server_.Forget(this);
}

void Session::Start() {
  error_code ignored;
  socket_.set_option(tcp::no_delay(true), ignored);
  socket_.set_option(net::socket_base::keep_alive(true), ignored);
  Enter(Phase::kIdle);
  SetDeadline(ToClock(server_.options.header_timeout));
  Advance();
}

void Session::RejectOverCapacity() {
  BeginRequest();
  Refuse(errors::ConnectionLimit());
}

void Session::Drain() {
  draining_ = true;
  if (phase_ == Phase::kIdle || phase_ == Phase::kLingering) Close();
}

void Session::Abort() {
  draining_ = true;
  cancel_.Cancel(errors::ShuttingDown());
  // A handler that is told to stop still gets its answer out; the rest has nothing to wait for.
  if (phase_ == Phase::kHandling || (phase_ == Phase::kStreaming && !stream_ended_)) {
    close_after_ = true;
  } else if (phase_ != Phase::kWriting && phase_ != Phase::kStreaming) {
    Close();
  } else {
    SetDeadline(std::chrono::seconds(1));
  }
}

void Session::Evict() {
  if (phase_ == Phase::kIdle || phase_ == Phase::kHeader || phase_ == Phase::kLingering) Close();
}

void Session::Enter(Phase phase) {
  phase_ = phase;
  server_.SetEvictable(
      this, phase == Phase::kIdle || phase == Phase::kHeader || phase == Phase::kLingering);
}

void Session::SetDeadlineAt(Clock::time_point deadline) {
  deadline_ = deadline;
  if (!waiting_) {
    WaitTimer();
  } else if (deadline_ < armed_) {
    timer_.cancel();  // its handler arms it anew
  }
}

void Session::WaitTimer() {
  waiting_ = true;
  armed_ = deadline_;
  timer_.expires_at(deadline_);
  timer_.async_wait([self = shared_from_this()](error_code) {
    self->waiting_ = false;
    if (self->phase_ == Phase::kClosed) return;
    if (Clock::now() >= self->deadline_) {
      self->OnTimeout();
    } else {
      self->WaitTimer();
    }
  });
}

void Session::OnTimeout() {
  const bool begun = phase_ == Phase::kHeader || phase_ == Phase::kBody;
  if (begun) {
    Refuse(errors::RequestTimeout());
  } else if (phase_ == Phase::kHandling || (phase_ == Phase::kStreaming && !stream_writing_)) {
    SetDeadline(std::chrono::hours(1));  // handlers have deadlines of their own
  } else {
    Close();
  }
}

Clock::duration Session::TransferTime(int64_t bytes) const {
  return ToClock(server_.options.body_grace +
                 absl::Seconds(static_cast<double>(bytes) /
                               static_cast<double>(server_.options.min_bytes_per_second)));
}

void Session::Read() {
  if (reading_ || peer_gone_ || phase_ == Phase::kClosed) return;
  // Whoever pipelines more than this waits for the answers to what was sent.
  const size_t limit = static_cast<size_t>(server_.options.max_header_bytes) + kBodyReadBytes;
  if (in_.size() >= limit) return;
  scratch_.resize(phase_ == Phase::kBody || phase_ == Phase::kLingering ? kBodyReadBytes
                                                                        : kReadBytes);
  reading_ = true;
  socket_.async_read_some(net::buffer(scratch_),
                          [self = shared_from_this()](error_code ec, size_t bytes) {
                            self->reading_ = false;
                            self->OnRead(ec, bytes);
                          });
}

void Session::OnRead(error_code ec, size_t bytes) {
  if (phase_ == Phase::kClosed) return;
  if (ec) {
    peer_gone_ = true;
    if (phase_ == Phase::kHandling || phase_ == Phase::kStreaming) {
      cancel_.Cancel(errors::Cancelled());
    } else if (ec == net::error::eof) {
      EndOfInput();
    } else if (phase_ != Phase::kWriting) {
      Close();
    }
    return;
  }
  if (phase_ == Phase::kLingering) {
    Read();
    return;
  }
  in_.append(scratch_.data(), bytes);
  if (phase_ == Phase::kHandling || phase_ == Phase::kStreaming || phase_ == Phase::kWriting) {
    Read();  // goes on watching for the end of the connection
    return;
  }
  Advance();
}

// A client that stops sending in the middle of a request may still read why it is refused.
void Session::EndOfInput() {
  if (phase_ == Phase::kHeader || phase_ == Phase::kBody) {
    Refuse(errors::RequestMalformed("it ends before its header or its body is complete"));
  } else if (phase_ != Phase::kWriting) {
    Close();
  }
}

void Session::BeginRequest() {
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(server_.options.max_header_bytes));
  // Set when the route is known. (none would mean 0: Beast of Boost 1.74 compares it as a number.)
  parser_->body_limit(std::numeric_limits<uint64_t>::max());
  request_ = Request();
  request_.id = NewRequestId();
  request_.peer = peer_;
  request_.received_at = absl::Now();
  begun_ = Clock::now();
  route_ = nullptr;
  head_ = false;
  version_ = 11;
  body_received_ = 0;
  pending_.clear();
  stream_status_ = 0;
  streamed_ = 0;
  chunked_ = stream_writing_ = stream_ended_ = false;
  close_after_ = true;  // until the header says otherwise
  reason_.clear();
  extra_.clear();
  cancel_ = CancelSource();
  Enter(Phase::kHeader);
  SetDeadline(ToClock(server_.options.header_timeout));
}

void Session::Advance() {
  while (true) {
    if (in_.empty()) {
      if (peer_gone_) {
        EndOfInput();
      } else if (draining_ && phase_ == Phase::kIdle) {
        Close();
      } else {
        Read();
      }
      return;
    }
    if (phase_ == Phase::kIdle) {
      // An empty line may precede a request (RFC 9112, 2.2).
      in_.erase(0, std::min(in_.find_first_not_of("\r\n"), in_.size()));
      if (in_.empty()) continue;
      BeginRequest();
    }
    error_code ec;
    const size_t used = parser_->put(net::buffer(in_), ec);
    const bool starved = ec == beast_http::error::need_more;
    if (starved) ec = {};
    if (ec) {
      Refuse(FromParser(ec, in_, server_.options.max_header_bytes,
                        route_ == nullptr ? 0 : route_->body_limit));
      return;
    }
    in_.erase(0, used);
    if (phase_ == Phase::kBody && used > 0 && !CountBody(static_cast<int64_t>(used))) {
      Refuse(errors::Overloaded(absl::Seconds(1)));
      return;
    }
    if (phase_ == Phase::kHeader && parser_->is_header_done()) {
      OnHeader();
      if (phase_ != Phase::kBody) return;
    }
    if (phase_ == Phase::kBody && parser_->is_done()) {
      Dispatch();
      return;
    }
    if (starved && used == 0) {
      if (in_.size() >
          static_cast<size_t>(server_.options.max_header_bytes) + kBodyReadBytes - kReadBytes) {
        Refuse(errors::HeadersTooLarge(server_.options.max_header_bytes));
      } else if (peer_gone_) {
        EndOfInput();
      } else {
        Read();
      }
      return;
    }
  }
}

// What the header says, checked in the order of the answers a client can use best.
absl::Status Session::CheckHeader() {
  const auto& message = parser_->get();
  version_ = static_cast<int>(message.version());
  int hosts = 0, content_types = 0, lengths = 0;
  bool transfer_encoding = false, chunked = true;
  for (const auto& field : message) {
    std::string name = absl::AsciiStrToLower(View(field.name_string()));
    hosts += name == "host";
    content_types += name == "content-type";
    lengths += name == "content-length";
    if (name == "transfer-encoding") {
      // Exactly this, once: what else a parser may take for it, another in front of us may not.
      chunked &= !transfer_encoding && absl::EqualsIgnoreCase(View(field.value()), "chunked");
      transfer_encoding = true;
    }
    request_.fields.emplace_back(std::move(name), std::string(View(field.value())));
  }
  request_.method = std::string(View(message.method_string()));
  head_ = request_.method == "HEAD";
  if (IsRequestId(request_.field("x-request-id"))) {
    request_.client_id = std::string(request_.field("x-request-id"));
  }
  if (hosts > 1 || (hosts == 0 && version_ >= 11)) {
    return errors::RequestMalformed("it needs exactly one Host field");
  }
  if (content_types > 1) return errors::RequestMalformed("it has two Content-Type fields");
  if (transfer_encoding && (lengths > 0 || version_ < 11 || !chunked || !parser_->chunked())) {
    return errors::RequestMalformed("Transfer-Encoding is not chunked alone");
  }

  absl::string_view target = View(message.target());
  if (!absl::StartsWith(target, "/") && target != "*") {  // the form proxies use
    const size_t scheme = target.find("://");
    if (scheme == absl::string_view::npos) {
      return errors::RequestMalformed("the request line cannot be read");
    }
    target.remove_prefix(scheme + 3);
    const size_t slash = target.find('/');
    target = slash == absl::string_view::npos ? absl::string_view("/") : target.substr(slash);
  }
  target = target.substr(0, target.find('#'));
  const size_t mark = target.find('?');
  request_.path = std::string(target.substr(0, mark));
  if (mark != absl::string_view::npos) request_.query = std::string(target.substr(mark + 1));

  const absl::string_view wanted = head_ ? "GET" : absl::string_view(request_.method);
  std::vector<absl::string_view> allowed;
  const Route* path_match = nullptr;
  for (const Route& route : server_.routes) {
    absl::string_view prefix = route.path;
    const bool under = absl::ConsumeSuffix(&prefix, "*");
    if (under ? !absl::StartsWith(request_.path, prefix) : request_.path != prefix) continue;
    if (path_match == nullptr) path_match = &route;
    if (route.method.empty() || route.method == wanted) {
      route_ = &route;
      break;
    }
    allowed.push_back(route.method);
    if (route.method == "GET") allowed.push_back("HEAD");
  }
  if (route_ == nullptr) {
    if (path_match == nullptr && !(request_.method == "OPTIONS" && request_.path == "*")) {
      return errors::RouteUnknown();
    }
    allowed.push_back("OPTIONS");
    std::string list;
    for (absl::string_view method : allowed) {
      absl::StrAppend(&list, list.empty() ? "" : ", ", method);
    }
    extra_.emplace_back("Allow", list);
    if (request_.method == "OPTIONS") return absl::OkStatus();
    route_ = path_match;  // for the log
    return errors::MethodNotAllowed(list);
  }

  const absl::string_view expect = request_.field("expect");
  if (!expect.empty() && !absl::EqualsIgnoreCase(expect, "100-continue")) {
    return errors::ExpectationUnsupported();
  }
  const auto length = parser_->content_length();
  const bool has_body = parser_->chunked() || (length && *length > 0);
  if (has_body && route_->body_limit == 0) {
    return errors::RequestMalformed("this address takes no body");
  }
  if (length && *length > static_cast<uint64_t>(route_->body_limit)) {
    return errors::BodyTooLarge(route_->body_limit);
  }
  if (route_->admit) {
    if (absl::Status status = route_->admit(request_); !status.ok()) return status;
  }
  if (has_body) {
    if (!server_.HasCapacity(length ? static_cast<int64_t>(*length) : 1)) {
      return errors::Overloaded(absl::Seconds(1));
    }
    parser_->body_limit(static_cast<uint64_t>(route_->body_limit));
  }
  return absl::OkStatus();
}

void Session::OnHeader() {
  const absl::Status status = CheckHeader();
  close_after_ = !parser_->keep_alive();
  if (!status.ok()) {
    // What follows the header of a refused request is not read, so nothing after it can be told
    // from it.
    if (!parser_->is_done() || ErrorReason(status) == "REQUEST_MALFORMED") close_after_ = true;
    reason_ = ErrorReason(status);
    Respond(Problem(status, request_.id));
    return;
  }
  if (route_ == nullptr) {  // OPTIONS
    if (!parser_->is_done()) close_after_ = true;
    Response response;
    response.status = 204;
    Respond(std::move(response));
    return;
  }
  Enter(Phase::kBody);
  stretch_begun_ = Clock::now();
  stretch_bytes_ = 0;
  SetDeadline(TransferTime(0));
  if (!parser_->is_done() && in_.empty() && version_ >= 11 && !request_.field("expect").empty()) {
    // All earlier answers have been handed to the kernel, so these few bytes fit; a client that
    // does not get them sends its body after a while anyway.
    error_code ignored;
    socket_.non_blocking(true, ignored);
    socket_.write_some(net::buffer("HTTP/1.1 100 Continue\r\n\r\n", 25), ignored);
  }
}

// A handler's end of a streamed answer. Its calls go to the strand in their order.
class Session::Stream final : public ResponseStream {
 public:
  explicit Stream(Session& session) : session_(session) {}
  bool begun() const { return begun_; }

  void Begin(Head head) override {
    begun_ = true;
    net::post(session_.socket_.get_executor(),
              [self = session_.shared_from_this(), head = std::move(head)]() mutable {
                self->BeginStream(std::move(head));
              });
  }

  bool Write(std::string bytes) override {
    if (session_.request_.cancel.cancelled()) return false;
    if (bytes.empty()) return true;
    net::post(session_.socket_.get_executor(),
              [self = session_.shared_from_this(), bytes = std::move(bytes)]() mutable {
                self->StreamBytes(std::move(bytes));
              });
    return true;
  }

 private:
  Session& session_;
  std::atomic<bool> begun_{false};
};

void Session::Dispatch() {
  BodyArrived();
  request_.body = std::move(parser_->get().body());
  request_.cancel = cancel_.token();
  if (head_) request_.method = "GET";
  parser_.reset();
  Enter(Phase::kHandling);
  SetDeadline(std::chrono::hours(1));

  auto handle = [route = route_](const Request& request) {
    try {
      return route->handler(request);
    } catch (...) {
      return Problem(errors::Internal(), request.id);
    }
  };
  if (route_->quick) {
    Respond(handle(request_));
    return;
  }
  Read();  // watches for the client going away
  const bool taken = server_.Submit([self = shared_from_this(), handle] {
    Stream stream(*self);
    self->request_.stream = &stream;
    Response response = handle(self->request_);
    self->request_.stream = nullptr;
    std::string().swap(self->request_.body);
    net::post(self->socket_.get_executor(),
              [self, streamed = stream.begun(), response = std::move(response)]() mutable {
                if (streamed) {
                  self->EndStream();
                } else {
                  self->Respond(std::move(response));
                }
              });
  });
  if (!taken) {
    reason_ = "OVERLOADED";
    Respond(Problem(errors::Overloaded(absl::Seconds(1)), request_.id));
  }
}

void Session::Refuse(const absl::Status& status) {
  reason_ = ErrorReason(status);
  close_after_ = true;
  Respond(Problem(status, request_.id));
}

std::string Session::Head(int status, const std::string& content_type, const Fields& fields) const {
  std::string out = absl::StrCat(
      "HTTP/1.1 ", status, " ", ReasonPhrase(status),
      "\r\nDate: ", absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", absl::Now(), absl::UTCTimeZone()),
      "\r\nX-Request-Id: ", request_.id, "\r\n");
  if (!request_.client_id.empty()) {
    absl::StrAppend(&out, "X-Client-Request-Id: ", request_.client_id, "\r\n");
  }
  absl::StrAppend(&out, "X-Content-Type-Options: nosniff\r\n");
  for (const Fields* some : {&extra_, &fields}) {
    for (const auto& [name, value] : *some) absl::StrAppend(&out, name, ": ", value, "\r\n");
  }
  if (!content_type.empty()) absl::StrAppend(&out, "Content-Type: ", content_type, "\r\n");
  if (close_after_) {
    absl::StrAppend(&out, "Connection: close\r\n");
  } else if (version_ < 11) {
    absl::StrAppend(&out, "Connection: keep-alive\r\n");
  }
  absl::StrAppend(&out, "\r\n");
  return out;
}

void Session::Report(int status, int64_t response_bytes) {
  if (!server_.options.on_exchange) return;
  Server::Exchange exchange;
  exchange.request_id = request_.id;
  exchange.client_request_id = request_.client_id;
  exchange.method = request_.method.empty() ? "" : head_ ? "HEAD" : KnownMethod(request_.method);
  exchange.route = route_ == nullptr ? "" : route_->path;
  exchange.status = status;
  exchange.reason = reason_;
  exchange.request_bytes = body_received_;
  exchange.response_bytes = response_bytes;
  exchange.duration = absl::FromChrono(Clock::now() - begun_);
  server_.options.on_exchange(exchange);
}

void Session::Respond(Response response) {
  if (phase_ == Phase::kClosed) return;
  parser_.reset();
  ReleaseBody();
  if (draining_ || peer_gone_) close_after_ = true;

  const bool bodiless = response.status == 204 || response.status < 200;
  if (!bodiless) {
    response.fields.emplace_back("Content-Length", absl::StrCat(response.body.size()));
  }
  out_head_ = Head(response.status, response.content_type, response.fields);
  out_body_ = head_ || bodiless ? std::string() : std::move(response.body);
  Report(response.status, static_cast<int64_t>(out_body_.size()));

  Enter(Phase::kWriting);
  SetDeadline(TransferTime(static_cast<int64_t>(out_head_.size() + out_body_.size())));
  const std::array<net::const_buffer, 2> buffers = {net::buffer(out_head_), net::buffer(out_body_)};
  net::async_write(socket_, buffers,
                   [self = shared_from_this()](error_code ec, size_t) { self->OnWritten(ec); });
}

void Session::BeginStream(ResponseStream::Head head) {
  if (phase_ != Phase::kHandling) return;
  ReleaseBody();
  if (draining_ || peer_gone_) close_after_ = true;
  chunked_ = version_ >= 11;
  if (!chunked_) close_after_ = true;  // its end is the answer's
  if (chunked_) head.fields.emplace_back("Transfer-Encoding", "chunked");
  stream_status_ = head.status;
  pending_ = Head(head.status, head.content_type, head.fields);
  Enter(Phase::kStreaming);
  WriteStream();
}

void Session::StreamBytes(std::string bytes) {
  if (phase_ != Phase::kStreaming || stream_ended_) return;
  streamed_ += static_cast<int64_t>(bytes.size());
  if (!head_) {
    if (chunked_) absl::StrAppend(&pending_, absl::Hex(bytes.size()), "\r\n");
    pending_ += bytes;
    if (chunked_) pending_ += "\r\n";
  }
  if (static_cast<int64_t>(pending_.size()) > server_.options.max_stream_bytes) {
    Close();  // it does not read; the handler hears of it
    return;
  }
  WriteStream();
}

void Session::EndStream() {
  if (phase_ != Phase::kStreaming) return;
  stream_ended_ = true;
  if (chunked_ && !head_) pending_ += "0\r\n\r\n";
  Report(stream_status_, streamed_);
  WriteStream();
}

void Session::WriteStream() {
  if (stream_writing_) return;
  if (pending_.empty()) {
    if (stream_ended_) {
      OnWritten({});
    } else {
      SetDeadline(std::chrono::hours(1));
    }
    return;
  }
  out_body_.swap(pending_);
  pending_.clear();
  stream_writing_ = true;
  SetDeadline(TransferTime(static_cast<int64_t>(out_body_.size())));
  net::async_write(socket_, net::buffer(out_body_),
                   [self = shared_from_this()](error_code ec, size_t) {
                     if (self->phase_ == Phase::kClosed) return;
                     self->stream_writing_ = false;
                     if (ec) {
                       self->Close();
                     } else {
                       self->WriteStream();
                     }
                   });
}

void Session::OnWritten(error_code ec) {
  if (phase_ == Phase::kClosed) return;
  out_head_.clear();
  std::string().swap(out_body_);
  if (ec || peer_gone_ || draining_) {
    Close();
  } else if (close_after_) {
    Linger();
  } else {
    Enter(Phase::kIdle);
    SetDeadline(ToClock(server_.options.idle_timeout));
    Advance();
  }
}

// Closing with unread bytes makes the kernel reset the connection, and the answer is lost on a
// client that is still sending: it gets a while to find it.
void Session::Linger() {
  error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  in_.clear();
  Enter(Phase::kLingering);
  SetDeadline(ToClock(server_.options.linger));
  Read();
}

void Session::Close() {
  if (phase_ == Phase::kClosed) return;
  cancel_.Cancel(errors::Cancelled());
  Enter(Phase::kClosed);
  error_code ignored;
  timer_.cancel();
  socket_.shutdown(tcp::socket::shutdown_both, ignored);
  socket_.close(ignored);
}

// Memory and time of a body whose next bytes are there. False: there is no room for them.
bool Session::CountBody(int64_t received) {
  body_received_ += received;
  // Each stretch has its own time, so that what came fast earns no long silence afterwards.
  const Server::Options& options = server_.options;
  const auto stretch = static_cast<int64_t>(absl::ToDoubleSeconds(options.body_grace) *
                                            static_cast<double>(options.min_bytes_per_second));
  stretch_bytes_ += received;
  if (stretch_bytes_ >= stretch) {
    stretch_begun_ = Clock::now();
    stretch_bytes_ = 0;
  }
  SetDeadlineAt(stretch_begun_ + TransferTime(stretch_bytes_));
  if (body_received_ <= body_reserved_) return true;
  const int64_t more =
      (body_received_ - body_reserved_ + kReserveBytes - 1) / kReserveBytes * kReserveBytes;
  if (!server_.ReserveBody(peer_, !body_arriving_, more)) return false;
  body_arriving_ = true;
  body_reserved_ += more;
  return true;
}

void Session::BodyArrived() {
  if (body_arriving_) server_.BodyArrived(peer_, body_reserved_);
  body_arriving_ = false;
}

void Session::ReleaseBody() {
  BodyArrived();
  if (body_reserved_ > 0) server_.ReleaseBody(body_reserved_);
  body_reserved_ = 0;
}

// --- Server -------------------------------------------------------------------------------------

absl::Status ServerImpl::Listen() {
  const auto bad = [&](absl::string_view why) {
    return errors::ConfigInvalid(
        absl::StrCat("Cannot listen on ", options.address, " (HTTP): ", why));
  };
  absl::string_view host = options.address;
  const size_t colon = host.rfind(':');
  int port = 0;
  if (colon == absl::string_view::npos || !absl::SimpleAtoi(host.substr(colon + 1), &port) ||
      port < 0 || port > 65535) {
    return bad("it is not of the form host:port.");
  }
  host = host.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[") && !absl::ConsumeSuffix(&host, "]")) {
    return bad("it is not of the form host:port.");
  }
  error_code ec;
  if (host.empty()) {
    endpoint_ = tcp::endpoint(tcp::v4(), static_cast<uint16_t>(port));
  } else if (auto literal = net::ip::make_address(std::string(host), ec); !ec) {
    endpoint_ = tcp::endpoint(literal, static_cast<uint16_t>(port));
  } else {
    tcp::resolver resolver(io);
    const auto found =
        resolver.resolve(std::string(host), std::to_string(port), tcp::resolver::passive, ec);
    if (ec || found.empty()) return bad("the host name is not known here.");
    endpoint_ = *found.begin();
  }
  acceptor_.open(endpoint_.protocol(), ec);
  if (!ec) acceptor_.set_option(net::socket_base::reuse_address(true), ec);
  if (!ec) acceptor_.bind(endpoint_, ec);
  if (ec == net::error::address_in_use) {
    return bad("the address is in use. Choose another one.");
  }
  if (ec == net::error::access_denied) return bad("this user may not use that port.");
  if (ec) return bad("the address is not of this host.");
  acceptor_.listen(net::socket_base::max_listen_connections, ec);
  if (ec == net::error::address_in_use) {
    return bad("the address is in use. Choose another one.");
  }
  if (ec) return bad("the system refused it.");
  endpoint_ = acceptor_.local_endpoint(ec);
  net::post(acceptor_.get_executor(), [this] { Accept(); });
  for (int i = 0; i < options.io_threads; ++i) {
    threads_.emplace_back([this] { io.run(); });
  }
  return absl::OkStatus();
}

void ServerImpl::Accept() {
  acceptor_.async_accept(net::make_strand(io), [this](error_code ec, tcp::socket socket) {
    OnAccept(ec, std::move(socket));
  });
}

void ServerImpl::OnAccept(error_code ec, tcp::socket socket) {
  if (!acceptor_.is_open()) return;
  if (ec) {
    // Out of descriptors, most likely: make room and do not spin.
    EvictOldest();
    retry_.expires_after(std::chrono::milliseconds(20));
    retry_.async_wait([this](error_code) {
      if (acceptor_.is_open()) Accept();
    });
    return;
  }
  int sessions;
  {
    absl::MutexLock lock(&mu_);
    sessions = sessions_;
  }
  const bool room = sessions < options.max_connections || EvictOldest();
  if (sessions < options.max_connections + kEvictionSlack) {
    Add(std::make_shared<Session>(*this, std::move(socket)), room);
  }  // else: more than we can even refuse; the connection is cut
  Accept();
}

void ServerImpl::Add(const std::shared_ptr<Session>& session, bool room) {
  bool draining;
  {
    absl::MutexLock lock(&mu_);
    ++sessions_;
    session->place = busy_.insert(busy_.end(), session.get());
    draining = draining_;
  }
  session->Post(draining ? &Session::Abort : room ? &Session::Start : &Session::RejectOverCapacity);
}

void ServerImpl::Forget(Session* session) {
  absl::MutexLock lock(&mu_);
  (session->evictable ? idle_ : busy_).erase(session->place);
  --sessions_;
}

void ServerImpl::SetEvictable(Session* session, bool evictable) {
  absl::MutexLock lock(&mu_);
  if (session->evictable == evictable) return;
  std::list<Session*>& from = evictable ? busy_ : idle_;
  std::list<Session*>& to = evictable ? idle_ : busy_;
  to.splice(to.end(), from, session->place);
  session->evictable = evictable;
}

bool ServerImpl::EvictOldest() {
  std::shared_ptr<Session> oldest;  // released outside the lock: its destructor takes it
  {
    absl::MutexLock lock(&mu_);
    if (idle_.empty()) return false;
    oldest = idle_.front()->weak_from_this().lock();
    idle_.splice(idle_.end(), idle_, idle_.begin());  // the next call takes another one
  }
  if (oldest != nullptr) oldest->Post(&Session::Evict);
  return true;
}

void ServerImpl::ForEach(void (Session::*method)()) {
  std::vector<std::shared_ptr<Session>> sessions;  // as above
  {
    absl::MutexLock lock(&mu_);
    for (const std::list<Session*>* list : {&busy_, &idle_}) {
      for (Session* session : *list) sessions.push_back(session->weak_from_this().lock());
    }
  }
  for (const auto& session : sessions) {
    if (session != nullptr) session->Post(method);
  }
}

bool ServerImpl::HasCapacity(int64_t bytes) {
  absl::MutexLock lock(&bodies_mu_);
  return body_memory_ + bytes <= options.max_body_memory;
}

bool ServerImpl::ReserveBody(const std::string& peer, bool first, int64_t bytes) {
  absl::MutexLock lock(&bodies_mu_);
  const auto found = peer_bodies_.find(peer);
  const PeerBodies held = found == peer_bodies_.end() ? PeerBodies() : found->second;
  const int bodies = held.bodies + (first ? 1 : 0);
  // Nobody keeps all others out: several bodies that arrive from one peer have half of the room.
  const int64_t share = bodies > 1 ? options.max_body_memory / 2 : options.max_body_memory;
  if (held.bytes + bytes > share || body_memory_ + bytes > options.max_body_memory) return false;
  body_memory_ += bytes;
  peer_bodies_[peer] = {bodies, held.bytes + bytes};
  return true;
}

void ServerImpl::ReleaseBody(int64_t bytes) {
  absl::MutexLock lock(&bodies_mu_);
  body_memory_ -= bytes;
}

void ServerImpl::BodyArrived(const std::string& peer, int64_t bytes) {
  absl::MutexLock lock(&bodies_mu_);
  const auto found = peer_bodies_.find(peer);
  found->second.bytes -= bytes;
  if (--found->second.bodies == 0) peer_bodies_.erase(found);
}

void ServerImpl::Shutdown(absl::Time deadline) {
  std::call_once(shut_down_, [&] {
    {
      absl::MutexLock lock(&mu_);
      draining_ = true;
    }
    if (!threads_.empty()) {
      net::post(acceptor_.get_executor(), [this] {
        error_code ignored;
        acceptor_.close(ignored);
        retry_.cancel();
      });
      ForEach(&Session::Drain);
      const auto gone = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return sessions_ == 0; };
      absl::MutexLock lock(&mu_);
      bool done = mu_.AwaitWithDeadline(absl::Condition(&gone), deadline);
      while (!done) {
        mu_.Unlock();
        ForEach(&Session::Abort);
        mu_.Lock();
        // Again and again: a connection may have been accepted while we looked.
        done = mu_.AwaitWithTimeout(absl::Condition(&gone), absl::Milliseconds(200));
      }
    }
    executor_.reset();
    io.stop();
    for (std::thread& thread : threads_) thread.join();
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(Options options, std::vector<Route> routes) {
  auto server = std::make_unique<ServerImpl>(std::move(options), std::move(routes));
  if (absl::Status status = server->Listen(); !status.ok()) return status;
  return std::unique_ptr<Server>(std::move(server));
}

}  // namespace chord::http
