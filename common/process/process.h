// The life of a worker process: settings, loading, serving, draining, the end.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
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
  // Called every two seconds while it serves.
  virtual void Maintain() {}
};

// `make` reads the settings and starts listening (not ready). `metrics` outlives the worker.
using MakeWorker = std::function<absl::StatusOr<std::unique_ptr<Worker>>(
    const std::vector<std::string>& args, obs::Metrics* metrics)>;

// Exit codes: 0 after SIGTERM or SIGINT and a drain, or after --help; 2 with one sentence on stderr
// when settings, model or device are bad; 1 for anything else. A second signal exits at once; one
// that comes while the model loads does, too. With CHORD_SUPERVISED in the environment (1, or
// the process id of the parent) the process gets SIGTERM when its parent dies.
int RunProcess(int argc, char** argv, obs::Role role, const MakeWorker& make);

}  // namespace chord::process
