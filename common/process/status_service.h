// The stream of a worker's state: at each change and at least once per interval.
#pragma once

#include <functional>
#include <string>

#include "absl/time/time.h"
#include "chord/internal/v1/worker_status.grpc.pb.h"
#include "common/base/errors.h"
#include "common/rpc/call.h"

namespace chord::process {

class StatusService final : public internal::v1::WorkerStatus::CallbackService {
 public:
  // Both are called on any thread. `metrics` returns the page of /metrics.
  StatusService(std::function<internal::v1::WorkerState()> snapshot,
                std::function<std::string()> metrics);

  grpc::ServerWriteReactor<internal::v1::WorkerState>* Watch(
      grpc::CallbackServerContext* context, const internal::v1::WatchRequest* request) override;

  grpc::ServerUnaryReactor* Metrics(grpc::CallbackServerContext* context,
                                    const internal::v1::MetricsRequest* request,
                                    internal::v1::MetricsResponse* response) override;

  // Sends what is due. To be called several times a second, and at once after an urgent change.
  void Tick(absl::Time now);
  // Ends all streams, which would delay the server's shutdown.
  void Close() { watchers_.Shutdown(errors::ShuttingDown()); }

 private:
  class Watcher;
  const std::function<internal::v1::WorkerState()> snapshot_;
  const std::function<std::string()> metrics_;
  rpc::CallRegistry watchers_;  // all are of class Watcher
};

}  // namespace chord::process
