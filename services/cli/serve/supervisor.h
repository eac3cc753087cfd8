// Starts processes, watches them, restarts the ones that end, hang or grow too large, and stops all
// of them in order.
#pragma once

#include <signal.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/obs/metrics.h"
#include "common/process/service_manager.h"
#include "services/cli/serve/child_watch.h"
#include "services/cli/serve/health_probe.h"
#include "services/cli/serve/restart_policy.h"

namespace chord::cli {

inline constexpr int kExitCrashLoop = 4;

struct ChildProcess {
  std::string role;  // as in messages: "vision worker"
  obs::Role process = obs::Role::kGateway;
  std::vector<std::string> command;  // program and arguments
  std::string health_address;        // unix:path of its gRPC server
  std::string ready_service;         // whose health says that it is ready
  ChildWatch::Limits limits;
};

// One per program: it takes over the process's signals. Not thread-safe.
class Supervisor {
 public:
  struct Options {
    // The supervisor's own metrics and the file for them, which the gateway shows; null, "": none.
    obs::Metrics* metrics = nullptr;
    std::string metrics_file;
    absl::Duration probe_every = absl::Seconds(1);
    // Starts in a row that end before the process is ready; one more ends the supervisor.
    int max_failed_starts = 5;
    process::ServiceManager manager;
  };
  // From here on the process's signals are data for Run. REQUIRES: no other thread takes them.
  // `children` are started in this order and stopped in the reverse one. The system is ready when
  // the last of them is.
  Supervisor(Options options, const std::vector<ChildProcess>& children);
  ~Supervisor();

  // Returns the exit code: 0 after SIGTERM, SIGINT or SIGHUP; 2 when a child's settings are wrong;
  // 1 when a child's program cannot be run; kExitCrashLoop when one fails to start again and again.
  // `announce` is called when the system is ready for the first time, with the time since the
  // start.
  int Run(const std::function<void(absl::Duration)>& announce);

 private:
  struct Child;

  void BlockSignals();
  void Start(Child& child);
  void WaitForEvent(absl::Duration timeout);
  absl::Duration UntilNextEvent(absl::Duration timeout) const;
  void TakeSignals();
  void Reap();
  void OnExit(Child& child, int status);
  void GiveUp(const Child& child, int code, const char* event, const std::string& why);
  void Watch(Child& child);
  void Act(Child& child, Verdict verdict, int64_t memory_bytes);
  void WatchAll();
  bool AllReady() const;
  void TellManager();
  void CountStart(const Child& child, bool up, bool restarted);
  void StopAll();
  void StopChild(Child& child, int signals_before);

  const Options options_;
  std::vector<std::unique_ptr<Child>> children_;
  sigset_t original_mask_;
  int signals_ = -1;  // signalfd
  int stop_signals_ = 0;
  bool stopping_ = false;
  bool announced_ = false;
  int exit_code_ = 0;
  absl::Time next_probe_, next_alive_;
  std::string told_;  // the manager's latest status
};

}  // namespace chord::cli
