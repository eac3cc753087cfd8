#include "common/http/server.h"

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/byte_budget.h"
#include "common/base/errors.h"
#include "common/base/executor.h"
#include "common/base/host_port.h"
#include "common/http/connection.h"
#include "common/http/connection_set.h"
#include "common/http/cors.h"
#include "common/http/router.h"
#include "common/http/tls_relay.h"

namespace chord::http {

absl::string_view Request::field(absl::string_view lower_case_name) const {
  for (const auto& [name, value] : fields) {
    if (name == lower_case_name) return value;
  }
  return {};
}

namespace {

namespace net = boost::asio;
using boost::system::error_code;
using net::ip::tcp;

// Connections over the limit that may wait for an evicted one to end.
constexpr int kEvictionSlack = 64;
// For the ends of TLS connections after the last response.
constexpr absl::Duration kRelayEnd = absl::Seconds(1);

}  // namespace

struct Server::Impl {
  Impl(Options opts, std::vector<Route> routes)
      : options(std::move(opts)),
        router(std::move(routes)),
        cors(options.cors_origins),
        bodies({.limit = options.max_body_memory}),
        io(options.io_threads),
        acceptor(net::make_strand(io)),
        retry(acceptor.get_executor()),
        executor(std::in_place, options.handler_threads, options.max_queued) {}

  absl::Status Listen();
  absl::StatusOr<tcp::endpoint> Resolve();
  absl::Status Refused(absl::string_view why) const {
    return errors::ConfigInvalid(
        absl::StrCat("Cannot listen on ", options.address, " (HTTP): ", why));
  }
  void Accept();
  void OnAccept(error_code ec, tcp::socket socket);
  void Serve(tcp::socket socket, std::string peer);
  void ServeTls(tcp::socket socket);
  std::shared_ptr<net::ssl::context> TlsContext();
  void Shutdown(absl::Time deadline);

  const Options options;
  const Router router;
  const CorsPolicy cors;
  ByteBudget bodies;
  ConnectionSet connections;
  net::io_context io;
  // A handler may finish when nothing else is left to do on the I/O threads.
  const net::executor_work_guard<net::io_context::executor_type> work = net::make_work_guard(io);
  tcp::acceptor acceptor;
  net::steady_timer retry;
  tcp::endpoint endpoint;
  std::optional<Executor> executor;
  std::vector<std::thread> threads;
  std::once_flag shut_down;
  std::atomic<int> relays{0};
  std::shared_ptr<const Certificates> tls_of;  // what the context was made of
  std::shared_ptr<net::ssl::context> tls_context;
};

absl::StatusOr<tcp::endpoint> Server::Impl::Resolve() {
  const absl::StatusOr<HostPort> where = ParseHostPort(options.address);
  if (!where.ok()) return Refused("it is not of the form host:port.");
  const auto port = static_cast<uint16_t>(where->port);
  if (where->host.empty()) return tcp::endpoint(tcp::v4(), port);
  error_code ec;
  if (auto literal = net::ip::make_address(where->host, ec); !ec) {
    return tcp::endpoint(literal, port);
  }
  tcp::resolver resolver(io);
  const auto found =
      resolver.resolve(where->host, std::to_string(port), tcp::resolver::passive, ec);
  if (ec || found.empty()) return Refused("the host name is not known here.");
  return found.begin()->endpoint();
}

absl::Status Server::Impl::Listen() {
  absl::StatusOr<tcp::endpoint> resolved = Resolve();
  if (!resolved.ok()) return resolved.status();
  error_code ec;
  acceptor.open(resolved->protocol(), ec);
  if (!ec) acceptor.set_option(net::socket_base::reuse_address(true), ec);
  if (!ec) acceptor.bind(*resolved, ec);
  if (!ec) acceptor.listen(net::socket_base::max_listen_connections, ec);
  if (ec == net::error::address_in_use) {
    return Refused("the address is in use. Choose another one.");
  }
  if (ec == net::error::access_denied) return Refused("this user may not use that port.");
  if (ec) return Refused("the address is not of this host.");
  endpoint = acceptor.local_endpoint(ec);
  net::post(acceptor.get_executor(), [this] { Accept(); });
  for (int i = 0; i < options.io_threads; ++i) {
    threads.emplace_back([this] { io.run(); });
  }
  return absl::OkStatus();
}

void Server::Impl::Accept() {
  acceptor.async_accept(net::make_strand(io), [this](error_code ec, tcp::socket socket) {
    OnAccept(ec, std::move(socket));
  });
}

void Server::Impl::OnAccept(error_code ec, tcp::socket socket) {
  if (!acceptor.is_open()) return;
  if (ec) {
    // Out of descriptors, most likely: make room and do not spin.
    connections.EvictOldest();
    retry.expires_after(std::chrono::milliseconds(20));
    retry.async_wait([this](error_code) {
      if (acceptor.is_open()) Accept();
    });
    return;
  }
  options.tls == nullptr ? Serve(std::move(socket), "") : ServeTls(std::move(socket));
  Accept();
}

void Server::Impl::Serve(tcp::socket socket, std::string peer) {
  const int open = connections.size();
  const bool room = open < options.max_connections || connections.EvictOldest();
  if (open < options.max_connections + kEvictionSlack) {
    const ServerContext context = {options, router, cors, bodies, *executor, connections};
    connections.Add(std::make_shared<Connection>(context, std::move(socket), std::move(peer)),
                    room);
  }  // else: more than can even be refused; the connection is cut
}

// Handshakes under way count: they hold memory and take time.
void Server::Impl::ServeTls(tcp::socket socket) {
  if (relays >= options.max_connections + kEvictionSlack) return;
  std::shared_ptr<net::ssl::context> context = TlsContext();
  if (context == nullptr) return;
  std::string peer = AddressOf(socket);
  const auto relay = std::make_shared<TlsRelay>(std::move(socket), std::move(context), relays);
  relay->Start(options.header_timeout,
               [this, peer = std::move(peer)](std::unique_ptr<tcp::socket> plain) {
                 if (plain != nullptr) return Serve(std::move(*plain), peer);
                 if (options.on_handshake_failure) options.on_handshake_failure();
               });
}

// Made anew when the certificates are; connections that are open keep theirs. On the acceptor's
// strand.
std::shared_ptr<net::ssl::context> Server::Impl::TlsContext() {
  std::shared_ptr<const Certificates> now = options.tls->current();
  if (now == tls_of) return tls_context;
  absl::StatusOr<std::shared_ptr<net::ssl::context>> made = MakeTlsContext(*now);
  tls_of = std::move(now);
  if (made.ok()) tls_context = *std::move(made);
  return tls_context;
}

void Server::Impl::Shutdown(absl::Time deadline) {
  std::call_once(shut_down, [&] {
    if (!threads.empty()) {
      net::post(acceptor.get_executor(), [this] {
        error_code ignored;
        acceptor.close(ignored);
        retry.cancel();
      });
      connections.Drain();
      connections.AwaitEmpty(deadline);
      // The last bytes of the last responses are on their way through the relays.
      const absl::Time relays_until = absl::Now() + kRelayEnd;
      while (relays > 0 && absl::Now() < relays_until) absl::SleepFor(absl::Milliseconds(2));
    }
    executor.reset();
    io.stop();
    for (std::thread& thread : threads) thread.join();
  });
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() { Shutdown(absl::Now()); }

int Server::port() const { return impl_->endpoint.port(); }
std::string Server::address() const {
  return HostPort{impl_->endpoint.address().to_string(), port()}.ToString();
}
void Server::Shutdown(absl::Time deadline) { impl_->Shutdown(deadline); }

absl::StatusOr<std::unique_ptr<Server>> Server::Start(Options options, std::vector<Route> routes) {
  auto impl = std::make_unique<Impl>(std::move(options), std::move(routes));
  if (absl::Status status = impl->Listen(); !status.ok()) return status;
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

}  // namespace chord::http
