#include "services/cli/serve/listen_address.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/host_port.h"

namespace chord::cli {
namespace {

int PortOf(const sockaddr_storage& bound) {
  return ntohs(bound.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6*>(&bound)->sin6_port
                   : reinterpret_cast<const sockaddr_in*>(&bound)->sin_port);
}

}  // namespace

absl::StatusOr<std::string> ReserveListenAddress(const std::string& text, absl::string_view flag) {
  const auto invalid = [&](const auto&... parts) {
    return errors::ConfigInvalid(absl::StrCat("--", flag, parts...));
  };
  absl::StatusOr<HostPort> where = ParseHostPort(text);
  if (!where.ok()) return invalid(" ", where.status().message(), ".");
  if (where->host.empty()) where->host = "127.0.0.1";

  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (getaddrinfo(where->host.c_str(), absl::StrCat(where->port).c_str(), &hints, &found) != 0) {
    return invalid(": the host ", where->host, " is not known.");
  }
  const absl::Cleanup free_found = [found] { freeaddrinfo(found); };
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const absl::Cleanup close_fd = [fd] { close(fd); };
  const int reuse = 1;  // a port in TIME_WAIT is free
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0) {
    if (errno == EADDRINUSE) {
      return invalid(
          ": ", where->ToString(),
          " is in use, by a running Chord or by another program. Choose another port, or "
          "0 for any.");
    }
    return invalid(": cannot listen on ", where->ToString(), ": ", std::strerror(errno), ".");
  }
  where->port = PortOf(bound);
  return where->ToString();
}

std::string LocalAddressOf(const std::string& address) {
  absl::StatusOr<HostPort> where = ParseHostPort(address);
  if (!where.ok()) return address;
  if (where->host.empty() || where->host == "0.0.0.0") where->host = "127.0.0.1";
  if (where->host == "::") where->host = "::1";
  return where->ToString();
}

}  // namespace chord::cli
