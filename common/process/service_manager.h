// Tells the service manager (systemd, Type=notify) how the process is, as sd_notify(3) does: a
// datagram to the socket that NOTIFY_SOCKET names. Without one nothing is sent.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace chord::process {

// Thread-safe once constructed.
class ServiceManager {
 public:
  // Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of the environment, so that no child
  // speaks in our name. Before any thread exists.
  static ServiceManager FromEnvironment();

  ServiceManager() = default;
  // `socket`: a path, or '@' and an abstract name; empty: none.
  ServiceManager(std::string socket, absl::Duration watchdog)
      : socket_(std::move(socket)), watchdog_(watchdog) {}

  // How often Alive is wanted; infinite when there is no watchdog.
  absl::Duration alive_every() const { return watchdog_ / 2; }

  void Ready(absl::string_view status) const;
  void Status(absl::string_view status) const;  // one line, for `systemctl status`
  void Alive() const;
  void Stopping(absl::string_view status) const;

 private:
  void Send(const std::string& text, absl::Duration patience) const;
  std::string socket_;
  absl::Duration watchdog_ = absl::InfiniteDuration();
};

}  // namespace chord::process
