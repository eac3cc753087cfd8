// What every worker process is around its model: the server and its health, the gate, the status
// stream, /metrics and probes, maintenance, loading and draining.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "chord/internal/v1/worker_status.pb.h"
#include "common/obs/metrics.h"
#include "common/process/call_gate.h"
#include "common/process/periodic_task.h"
#include "common/process/status_service.h"
#include "common/rpc/server.h"

namespace chord::http {
class Server;
}

namespace chord::process {

// What an operator calls the model in `dir`: the folder's name.
absl::string_view ModelName(absl::string_view dir);

class WorkerServer {
 public:
  struct Options {
    internal::v1::WorkerState::Role role = internal::v1::WorkerState::ROLE_UNSPECIFIED;
    std::string role_word;        // "vision" or "language", as in errors
    std::string ready_service;    // health of this name follows readiness
    std::string address;          // of the internal services
    std::string metrics_address;  // of /metrics, /healthz, /readyz; empty: none
    std::string model_dir;
    absl::Duration drain = absl::Seconds(10);
    obs::Metrics* metrics = nullptr;  // not owned
  };
  // All are called without locks held; `tick` and `add_state` also while `load` runs.
  struct Hooks {
    std::function<absl::Status()> load;    // model and everything around it
    std::function<void()> unload;          // after the last call has ended; joins threads
    std::function<void(absl::Time)> tick;  // expiry, stalls, gauges: every 50 ms
    std::function<void(internal::v1::WorkerState*)> add_state;
  };
  WorkerServer(Options options, Hooks hooks);
  ~WorkerServer();  // REQUIRES: Stop was called, or Listen never was

  CallGate& gate() { return gate_; }
  const CallGate& gate() const { return gate_; }
  int port() const;

  // CONFIG_INVALID when an address cannot be bound. `services` must outlive Stop.
  absl::Status Listen(std::vector<grpc::Service*> services);
  absl::Status Load();
  // Not ready at once; what is inside ends by itself or at the drain time.
  void Drain();
  // Calls that are left are cancelled at `deadline`. Idempotent.
  void Stop(absl::Time deadline);

 private:
  internal::v1::WorkerState State() const;
  absl::Status Readiness() const;
  void SetReady(bool ready);

  const Options options_;
  const Hooks hooks_;
  CallGate gate_;
  StatusService status_;
  std::atomic<bool> ready_{false};
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<http::Server> http_;
  std::unique_ptr<PeriodicTask> ticker_;
};

}  // namespace chord::process
