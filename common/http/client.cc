#include "common/http/client.h"

#include <array>
#include <boost/asio/connect.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <list>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/host_port.h"

namespace chord::http {
namespace {

namespace net = boost::asio;
namespace beast_http = boost::beast::http;
using boost::system::error_code;
using net::ip::tcp;
using Clock = std::chrono::steady_clock;

absl::Status Unavailable(absl::string_view what) { return absl::UnavailableError(what); }

struct Connection {
  explicit Connection(net::io_context& io) : socket(io) {}
  tcp::socket socket;
  boost::beast::flat_buffer buffer;
  Clock::time_point idle_since;
};

class ClientImpl;

// One request and its answer. Touched on the client's thread only.
class Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(ClientImpl& client, ClientRequest request,
           std::function<void(absl::string_view)> on_body,
           std::function<void(absl::StatusOr<Response>)> done);
  void Begin();
  void End(const absl::Status& status);

 private:
  void Connect();
  void Write();
  void Read();
  void OnRead(error_code ec);
  void Finish();

  ClientImpl& client_;
  ClientRequest request_;
  std::function<void(absl::string_view)> on_body_;
  std::function<void(absl::StatusOr<Response>)> done_;
  net::steady_timer timer_;
  std::unique_ptr<Connection> connection_;
  std::string head_;
  beast_http::response_parser<beast_http::string_body> parser_;
  size_t body_seen_ = 0;
  bool written_ = false;
  bool ended_ = false;
};

class ClientImpl final : public Client {
 public:
  explicit ClientImpl(Options options)
      : options_(std::move(options)), work_(net::make_work_guard(io_)) {}

  ~ClientImpl() override {
    CancelAll();
    net::post(io_, [this] { closing_ = true; });
    work_.reset();  // run() returns when the last exchange has ended
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Resolve() {
    const absl::StatusOr<HostPort> where = ParseHostPort(options_.address);
    if (!where.ok() || where->port == 0) {
      return errors::ConfigInvalid("The HTTP address must be HOST:PORT.");
    }
    error_code ec;
    tcp::resolver resolver(io_);
    endpoints_ = resolver.resolve(where->host.empty() ? "localhost" : where->host,
                                  std::to_string(where->port), ec);
    if (ec || endpoints_.empty()) {
      return errors::ConfigInvalid(
          absl::StrCat("The address ", options_.address, " is not known."));
    }
    thread_ = std::thread([this] { io_.run(); });
    return absl::OkStatus();
  }

  void Send(ClientRequest request, std::function<void(absl::string_view)> on_body,
            std::function<void(absl::StatusOr<Response>)> done) override {
    auto exchange =
        std::make_shared<Exchange>(*this, std::move(request), std::move(on_body), std::move(done));
    net::post(io_, [exchange] { exchange->Begin(); });
  }

  void CancelAll() override {
    net::post(io_, [this] {
      const std::set<std::shared_ptr<Exchange>> all = live_;
      for (const auto& exchange : all) exchange->End(errors::Cancelled());
      idle_.clear();
    });
  }

  // --- for Exchange, on the thread ---------------------------------------------------------------
  net::io_context& io() { return io_; }
  const Options& options() const { return options_; }
  const tcp::resolver::results_type& endpoints() const { return endpoints_; }
  void Enter(const std::shared_ptr<Exchange>& exchange) { live_.insert(exchange); }
  void Leave(const std::shared_ptr<Exchange>& exchange) { live_.erase(exchange); }

  std::unique_ptr<Connection> TakeIdle() {
    while (!idle_.empty()) {
      std::unique_ptr<Connection> out = std::move(idle_.back());
      idle_.pop_back();
      if (Clock::now() - out->idle_since <= absl::ToChronoNanoseconds(options_.max_idle))
        return out;
      idle_.clear();  // the others have waited even longer
    }
    return nullptr;
  }
  void Keep(std::unique_ptr<Connection> connection) {
    if (closing_) return;
    connection->idle_since = Clock::now();
    idle_.push_back(std::move(connection));
  }

 private:
  const Options options_;
  net::io_context io_;
  net::executor_work_guard<net::io_context::executor_type> work_;
  tcp::resolver::results_type endpoints_;
  std::set<std::shared_ptr<Exchange>> live_;
  std::list<std::unique_ptr<Connection>> idle_;  // most recently used last
  bool closing_ = false;
  std::thread thread_;
};

Exchange::Exchange(ClientImpl& client, ClientRequest request,
                   std::function<void(absl::string_view)> on_body,
                   std::function<void(absl::StatusOr<Response>)> done)
    : client_(client),
      request_(std::move(request)),
      on_body_(std::move(on_body)),
      done_(std::move(done)),
      timer_(client.io()) {
  // Not eager: an eager parser reads on after a chunk until the next one is there, which would hold
  // back what has come.
  parser_.header_limit(static_cast<uint32_t>(client.options().max_header_bytes));
  parser_.body_limit(static_cast<uint64_t>(client.options().max_body_bytes));
}

void Exchange::Begin() {
  client_.Enter(shared_from_this());
  timer_.expires_after(absl::ToChronoNanoseconds(request_.timeout));
  timer_.async_wait([self = shared_from_this()](error_code ec) {
    if (!ec) self->End(errors::DeadlineExceeded());
  });
  size_t length = 0;
  for (const auto& part : request_.body) length += part->size();
  head_ = absl::StrCat(request_.method, " ", request_.path,
                       " HTTP/1.1\r\nHost: ", client_.options().address,
                       "\r\nContent-Length: ", length, "\r\n");
  for (const auto& [name, value] : request_.fields) {
    absl::StrAppend(&head_, name, ": ", value, "\r\n");
  }
  head_ += "\r\n";
  connection_ = client_.TakeIdle();
  if (connection_ != nullptr) {
    Write();
  } else {
    Connect();
  }
}

void Exchange::Connect() {
  connection_ = std::make_unique<Connection>(client_.io());
  net::async_connect(connection_->socket, client_.endpoints(),
                     [self = shared_from_this()](error_code ec, const tcp::endpoint&) {
                       if (self->ended_) return;
                       if (ec) return self->End(Unavailable("no connection"));
                       error_code ignored;
                       self->connection_->socket.set_option(tcp::no_delay(true), ignored);
                       self->Write();
                     });
}

void Exchange::Write() {
  std::vector<net::const_buffer> buffers = {net::buffer(head_)};
  for (const auto& part : request_.body) buffers.push_back(net::buffer(*part));
  // A server may answer before it has read everything, a refusal above all: what it says counts,
  // and a write that fails is only told when there is nothing to read.
  net::async_write(connection_->socket, buffers,
                   [self = shared_from_this()](error_code ec, size_t) {
                     if (!ec) self->written_ = true;
                   });
  Read();
}

void Exchange::Read() {
  beast_http::async_read_some(connection_->socket, connection_->buffer, parser_,
                              [self = shared_from_this()](error_code ec, size_t) {
                                if (!self->ended_) self->OnRead(ec);
                              });
}

void Exchange::OnRead(error_code ec) {
  if (ec) return End(Unavailable("the connection broke or the answer is malformed"));
  const std::string& body = parser_.get().body();
  if (on_body_ != nullptr && body.size() > body_seen_) {
    on_body_(absl::string_view(body.data() + body_seen_, body.size() - body_seen_));
    body_seen_ = body.size();
  }
  if (!parser_.is_done()) return Read();
  Finish();
}

void Exchange::Finish() {
  Response out;
  auto& message = parser_.get();
  out.status = static_cast<int>(message.result_int());
  for (const auto& field : message) {
    out.fields.emplace_back(absl::AsciiStrToLower(absl::string_view(field.name_string().data(),
                                                                    field.name_string().size())),
                            std::string(field.value().data(), field.value().size()));
    if (out.fields.back().first == "content-type") out.content_type = out.fields.back().second;
  }
  out.body = std::move(message.body());
  // A refusal may have come before the body was written; then the connection cannot go on.
  const bool reusable = message.keep_alive() && written_;
  ended_ = true;
  timer_.cancel();
  if (reusable) {
    client_.Keep(std::move(connection_));
  } else {
    error_code ignored;
    connection_->socket.close(ignored);
  }
  client_.Leave(shared_from_this());
  std::exchange(done_, nullptr)(std::move(out));
}

void Exchange::End(const absl::Status& status) {
  if (std::exchange(ended_, true)) return;
  timer_.cancel();
  if (connection_ != nullptr) {
    error_code ignored;
    connection_->socket.close(ignored);
  }
  client_.Leave(shared_from_this());
  std::exchange(done_, nullptr)(status);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Start(Options options) {
  auto out = std::make_unique<ClientImpl>(std::move(options));
  const absl::Status status = out->Resolve();
  if (!status.ok()) return status;
  return std::unique_ptr<Client>(std::move(out));
}

}  // namespace chord::http
