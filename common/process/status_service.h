// The stream on which a worker says how it is: at each change and at least once an interval.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "chord/internal/v1/worker_status.grpc.pb.h"

namespace chord::process {

class StatusService final : public internal::v1::WorkerStatus::CallbackService {
 public:
  // Both are called on any thread. `metrics` returns the page of /metrics.
  StatusService(std::function<internal::v1::WorkerState()> snapshot,
                std::function<std::string()> metrics);
  ~StatusService() override;

  grpc::ServerWriteReactor<internal::v1::WorkerState>* Watch(
      grpc::CallbackServerContext* context, const internal::v1::WatchRequest* request) override;

  grpc::ServerUnaryReactor* Metrics(grpc::CallbackServerContext* context,
                                    const internal::v1::MetricsRequest* request,
                                    internal::v1::MetricsResponse* response) override;

  // Sends what is due. Called several times a second, and at once after a change that must be
  // known.
  void Tick(absl::Time now);
  // Sends a last state and ends all streams, else they would hold up the server's end.
  void Close();

 private:
  class Watcher;
  const std::function<internal::v1::WorkerState()> snapshot_;
  const std::function<std::string()> metrics_;
  absl::Mutex mu_;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::weak_ptr<Watcher>> watchers_ ABSL_GUARDED_BY(mu_);
};

}  // namespace chord::process
