// One TLS connection: its handshake, and then its bytes to and from a socket pair, whose other end
// a Connection serves as it serves plain HTTP. Internal to common/http.
#pragma once

#include <array>
#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/certificates.h"

namespace chord::http {

// Of a server: TLS 1.2 and later, no renegotiation. CONFIG_INVALID when OpenSSL does not take the
// certificates.
absl::StatusOr<std::shared_ptr<boost::asio::ssl::context>> MakeTlsContext(
    const Certificates& certificates);

// Lives as long as something is pending on its socket's strand.
class TlsRelay : public std::enable_shared_from_this<TlsRelay> {
 public:
  using Tcp = boost::asio::ip::tcp::socket;
  // `open` counts the relays of a server.
  TlsRelay(Tcp socket, std::shared_ptr<boost::asio::ssl::context> context, std::atomic<int>& open);
  ~TlsRelay();
  TlsRelay(const TlsRelay&) = delete;
  TlsRelay& operator=(const TlsRelay&) = delete;

  // Calls `done` once, on the socket's strand: with the plain end after the handshake, or with
  // nullptr when the peer made none in `timeout`.
  void Start(absl::Duration timeout, std::function<void(std::unique_ptr<Tcp>)> done);

 private:
  using ErrorCode = boost::system::error_code;
  static constexpr size_t kBufferBytes = 16 << 10;  // one TLS record

  void OnHandshake(ErrorCode ec);
  std::unique_ptr<Tcp> MakePlainEnd();
  void FromPeer();
  void ToPeer();
  void EndToPeer();
  void Discard();
  void Close();

  std::shared_ptr<boost::asio::ssl::context> context_;
  boost::asio::ssl::stream<Tcp> peer_;
  boost::asio::local::stream_protocol::socket plain_;
  boost::asio::steady_timer timer_;
  std::function<void(std::unique_ptr<Tcp>)> done_;
  std::array<char, kBufferBytes> from_peer_, to_peer_;
  bool ending_ = false;
  std::atomic<int>& open_;
};

}  // namespace chord::http
