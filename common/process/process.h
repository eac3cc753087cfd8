// The life of a worker process: settings, loading, serving, draining, the end.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "chord/config/v1/config.pb.h"
#include "common/obs/metrics.h"

namespace chord::process {

class Worker {
 public:
  virtual ~Worker() = default;
  // Loads and warms up; the worker is ready when it returns OK. May take minutes.
  virtual absl::Status Load() = 0;
  // At once not ready; requests inside end by themselves or at `drain_seconds`; returns when the
  // worker serves no request any more. Called once, after Load.
  virtual void Drain() = 0;
  // Called every two seconds, or more often, while it serves.
  virtual void Maintain() {}
};

// What is particular to one program.
struct Program {
  obs::Role role;
  std::string section;  // of the settings: "gateway"
  // Whether the settings of this program are good. Opens nothing.
  std::function<absl::Status(const config::v1::Settings&)> check;
  // Starts listening (not ready). `metrics` outlives the worker.
  std::function<absl::StatusOr<std::unique_ptr<Worker>>(const config::v1::Settings&,
                                                        obs::Metrics* metrics)>
      make;
};

// Reads the settings (common/config/settings.h) and runs the program. --check_settings only checks
// them.
//
// Exit codes: 0 after SIGTERM or SIGINT and a drain, or after --help; 2 with one sentence on stderr
// when settings, model or device are bad; 1 for anything else. A second signal exits at once; one
// that comes while the model loads does, too. With CHORD_SUPERVISED in the environment (1, or
// the process id of the parent) the process gets SIGTERM when its parent dies. Under systemd
// (Type=notify) it reports that it is ready, stops, and, with a watchdog, that its main loop runs.
int RunProcess(int argc, char** argv, const Program& program);

}  // namespace chord::process
