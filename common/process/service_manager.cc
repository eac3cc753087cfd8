#include "common/process/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace chord::process {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(1);

std::string Take(const char* name) {
  const char* value = std::getenv(name);
  std::string out = value == nullptr ? "" : value;
  unsetenv(name);
  return out;
}

}  // namespace

ServiceManager ServiceManager::FromEnvironment() {
  std::string socket = Take("NOTIFY_SOCKET");
  int64_t microseconds = 0, pid = 0;
  const bool watched = absl::SimpleAtoi(Take("WATCHDOG_USEC"), &microseconds) && microseconds > 0;
  const std::string for_whom = Take("WATCHDOG_PID");
  const bool ours = for_whom.empty() || (absl::SimpleAtoi(for_whom, &pid) && pid == getpid());
  return {std::move(socket),
          watched && ours ? absl::Microseconds(microseconds) : absl::InfiniteDuration()};
}

void ServiceManager::Ready(absl::string_view status) const {
  Send(absl::StrCat("READY=1\nSTATUS=", status), kPatience);
}
void ServiceManager::Status(absl::string_view status) const {
  Send(absl::StrCat("STATUS=", status), kPatience);
}
void ServiceManager::Alive() const {
  if (watchdog_ < absl::InfiniteDuration()) Send("WATCHDOG=1", absl::ZeroDuration());
}
void ServiceManager::Stopping(absl::string_view status) const {
  Send(absl::StrCat("STOPPING=1\nSTATUS=", status), kPatience);
}

void ServiceManager::Send(const std::string& text, absl::Duration patience) const {
  sockaddr_un address{};
  if (socket_.empty() || socket_.size() >= sizeof(address.sun_path)) return;
  address.sun_family = AF_UNIX;
  std::copy(socket_.begin(), socket_.end(), address.sun_path);
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  // A manager that does not read must not hold up the service for long.
  const timeval limit = absl::ToTimeval(patience);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  const int wait = patience > absl::ZeroDuration() ? 0 : MSG_DONTWAIT;
  (void)sendto(fd, text.data(), text.size(), wait | MSG_NOSIGNAL,
               reinterpret_cast<const sockaddr*>(&address),
               static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_.size()));
  close(fd);
}

}  // namespace chord::process
