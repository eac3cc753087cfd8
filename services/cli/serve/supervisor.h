// Starts processes, restarts the ones that end, and stops all of them in order.
#pragma once

#include <signal.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "services/cli/serve/restart_policy.h"

namespace chord::cli {

struct ChildProcess {
  std::string role;                  // as in messages: "vision worker"
  std::vector<std::string> command;  // program and arguments
};

// One per program: it takes over the process's signals. Not thread-safe.
class Supervisor {
 public:
  // `children` are started in this order and stopped in the reverse one.
  explicit Supervisor(const std::vector<ChildProcess>& children);

  // Returns the exit code: 0 after SIGTERM, SIGINT or SIGHUP; 2 when a child's settings are wrong;
  // 1 when a child's program cannot be run. Until `ready` has returned true once it is called
  // every 50 ms; then `announce` is called, with the time since the start.
  int Run(const std::function<bool()>& ready, const std::function<void(absl::Duration)>& announce);

 private:
  struct Child {
    ChildProcess process;
    pid_t pid = 0;  // 0: not running
    absl::Time started = {};
    std::optional<absl::Time> restart_at = {};
    RestartPolicy policy = {};
  };

  void BlockSignals();
  void Start(Child& child);
  void WaitForEvent(absl::Duration timeout);
  void Reap();
  void OnExit(Child& child, int status);
  void StopAll();
  void StopChild(Child& child, int signals_before);

  std::vector<Child> children_;
  sigset_t original_mask_;
  int signals_ = -1;  // signalfd
  int stop_signals_ = 0;
  bool stopping_ = false;
  int exit_code_ = 0;
};

}  // namespace chord::cli
