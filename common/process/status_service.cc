#include "common/process/status_service.h"

#include <google/protobuf/util/message_differencer.h>

#include <memory>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/rpc/watch_call.h"

namespace chord::process {

using internal::v1::WorkerState;

class StatusService::Watcher final : public rpc::WatchCall<WorkerState> {
 public:
  Watcher(const StatusService& service, absl::Duration interval)
      : service_(service), interval_(interval) {}

  // Sends `state` when it has changed or the interval has passed.
  void Offer(const WorkerState& state, absl::Time now) {
    absl::MutexLock lock(&mu_);
    const bool changed = !google::protobuf::util::MessageDifferencer::Equals(state, sent_);
    if (now < due_ && !changed) return;
    sent_ = state;
    due_ = now + interval_;
    Publish(state);
  }

 private:
  void Begin() override { Offer(service_.snapshot_(), absl::Now()); }

  const StatusService& service_;
  const absl::Duration interval_;
  absl::Mutex mu_;
  WorkerState sent_ ABSL_GUARDED_BY(mu_);
  absl::Time due_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
};

StatusService::StatusService(std::function<WorkerState()> snapshot,
                             std::function<std::string()> metrics)
    : snapshot_(std::move(snapshot)), metrics_(std::move(metrics)) {}

grpc::ServerWriteReactor<WorkerState>* StatusService::Watch(
    grpc::CallbackServerContext*, const internal::v1::WatchRequest* request) {
  const double seconds = request->interval_seconds() == 0 ? 1.0 : request->interval_seconds();
  if (!(seconds >= 0.1 && seconds <= 60)) {
    return rpc::EndCall<grpc::ServerWriteReactor<WorkerState>>(
        errors::ParameterInvalid("interval_seconds", "a number from 0.1 to 60, or 0"));
  }
  return rpc::StartCall<Watcher>(&watchers_, *this, absl::Seconds(seconds));
}

grpc::ServerUnaryReactor* StatusService::Metrics(grpc::CallbackServerContext* context,
                                                 const internal::v1::MetricsRequest*,
                                                 internal::v1::MetricsResponse* response) {
  response->set_text(metrics_());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

void StatusService::Tick(absl::Time now) {
  const std::vector<std::shared_ptr<rpc::OpenCall>> watchers = watchers_.Open();
  if (watchers.empty()) return;
  const WorkerState state = snapshot_();
  for (const auto& watcher : watchers) static_cast<Watcher&>(*watcher).Offer(state, now);
}

}  // namespace chord::process
