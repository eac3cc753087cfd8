#include "common/http/tls_relay.h"

#include <boost/asio/local/connect_pair.hpp>
#include <boost/asio/write.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"

namespace chord::http {
namespace {

namespace net = boost::asio;
namespace ssl = boost::asio::ssl;

// From the end of the response to the end of the connection.
constexpr auto kEndTimeout = std::chrono::seconds(5);

}  // namespace

absl::StatusOr<std::shared_ptr<ssl::context>> MakeTlsContext(const Certificates& certificates) {
  auto context = std::make_shared<ssl::context>(ssl::context::tls_server);
  boost::system::error_code ec;
  context->set_options(ssl::context::default_workarounds | ssl::context::no_tlsv1 |
                           ssl::context::no_tlsv1_1 | SSL_OP_NO_RENEGOTIATION |
                           SSL_OP_CIPHER_SERVER_PREFERENCE,
                       ec);
  if (!ec) context->use_certificate_chain(net::buffer(certificates.certificate_pem), ec);
  if (!ec) context->use_private_key(net::buffer(certificates.key_pem), ssl::context::pem, ec);
  if (!ec && !certificates.authorities_pem.empty()) {
    context->add_certificate_authority(net::buffer(certificates.authorities_pem), ec);
    if (!ec) context->set_verify_mode(ssl::verify_peer | ssl::verify_fail_if_no_peer_cert, ec);
    // Sessions are resumed only within one set of trusted authorities.
    constexpr unsigned char kSessions[] = "chord-https";
    SSL_CTX_set_session_id_context(context->native_handle(), kSessions, sizeof(kSessions) - 1);
  }
  if (ec) {
    return errors::ConfigInvalid(
        absl::StrCat("OpenSSL does not take the certificates: ", ec.message(), "."));
  }
  return context;
}

TlsRelay::TlsRelay(Tcp socket, std::shared_ptr<ssl::context> context, std::atomic<int>& open)
    : context_(std::move(context)),
      peer_(std::move(socket), *context_),
      plain_(peer_.get_executor()),
      timer_(peer_.get_executor()),
      open_(open) {
  ++open_;
}

TlsRelay::~TlsRelay() { --open_; }

void TlsRelay::Start(absl::Duration timeout, std::function<void(std::unique_ptr<Tcp>)> done) {
  done_ = std::move(done);
  net::post(peer_.get_executor(), [self = shared_from_this(), timeout] {
    ErrorCode ignored;
    self->peer_.next_layer().set_option(net::ip::tcp::no_delay(true), ignored);
    self->peer_.next_layer().set_option(net::socket_base::keep_alive(true), ignored);
    self->timer_.expires_after(absl::ToChronoNanoseconds(timeout));
    self->timer_.async_wait([self](ErrorCode ec) {
      if (!ec) self->Close();  // which ends the handshake
    });
    self->peer_.async_handshake(ssl::stream_base::server,
                                [self](ErrorCode ec) { self->OnHandshake(ec); });
  });
}

void TlsRelay::OnHandshake(ErrorCode ec) {
  timer_.cancel();
  const auto done = std::move(done_);
  std::unique_ptr<Tcp> plain = ec ? nullptr : MakePlainEnd();
  const bool open = plain != nullptr;
  done(std::move(plain));
  if (!open) return Close();
  FromPeer();
  ToPeer();
}

// The other end of a socket pair, dressed as what Connection takes: it asks nothing of a socket
// that a unix one lacks, but for the peer's address, which it gets with it.
std::unique_ptr<TlsRelay::Tcp> TlsRelay::MakePlainEnd() {
  ErrorCode ec;
  net::local::stream_protocol::socket other(peer_.get_executor());
  net::local::connect_pair(plain_, other, ec);
  if (ec) return nullptr;
  const int fd = other.release(ec);
  if (ec) return nullptr;
  auto out = std::make_unique<Tcp>(peer_.get_executor());
  out->assign(net::ip::tcp::v4(), fd, ec);
  return ec ? nullptr : std::move(out);
}

void TlsRelay::FromPeer() {
  peer_.async_read_some(
      net::buffer(from_peer_), [self = shared_from_this()](ErrorCode ec, size_t bytes) {
        if (self->ending_) return;
        if (ec) {
          // Without more from the peer; whether it still reads shows when something is sent.
          ErrorCode ignored;
          self->plain_.shutdown(net::socket_base::shutdown_send, ignored);
          if (ec != net::error::eof && ec != ssl::error::stream_truncated) self->Close();
          return;
        }
        net::async_write(self->plain_, net::buffer(self->from_peer_.data(), bytes),
                         [self](ErrorCode write_error, size_t) {
                           if (!write_error) self->FromPeer();
                         });
      });
}

void TlsRelay::ToPeer() {
  plain_.async_read_some(net::buffer(to_peer_),
                         [self = shared_from_this()](ErrorCode ec, size_t bytes) {
                           if (ec) return self->EndToPeer();
                           net::async_write(self->peer_, net::buffer(self->to_peer_.data(), bytes),
                                            [self](ErrorCode write_error, size_t) {
                                              write_error ? self->Close() : self->ToPeer();
                                            });
                         });
}

// The response is out. A client that still sends would get a reset, and lose the response, if its
// bytes were not taken.
void TlsRelay::EndToPeer() {
  ending_ = true;
  timer_.expires_after(kEndTimeout);
  timer_.async_wait([self = shared_from_this()](ErrorCode ec) {
    if (!ec) self->Close();
  });
  peer_.async_shutdown([self = shared_from_this()](ErrorCode) {
    ErrorCode ignored;
    self->peer_.next_layer().shutdown(net::socket_base::shutdown_send, ignored);
    self->Discard();
  });
}

void TlsRelay::Discard() {
  peer_.next_layer().async_read_some(net::buffer(to_peer_),
                                     [self = shared_from_this()](ErrorCode ec, size_t) {
                                       if (!ec) return self->Discard();
                                       self->timer_.cancel();
                                       self->Close();
                                     });
}

void TlsRelay::Close() {
  ErrorCode ignored;
  peer_.next_layer().close(ignored);
  plain_.close(ignored);
}

}  // namespace chord::http
