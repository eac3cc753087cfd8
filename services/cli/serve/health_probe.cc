#include "services/cli/serve/health_probe.h"

#include <grpcpp/client_context.h>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/rpc/channel.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace chord::cli {

using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

struct HealthProbe::State {
  explicit State(const std::string& address) : stub(Health::NewStub(rpc::MakeChannel(address))) {}

  const std::unique_ptr<Health::Stub> stub;
  HealthCheckRequest request;
  absl::Mutex mu;
  bool asking ABSL_GUARDED_BY(mu) = false;
  std::optional<Answer> answer ABSL_GUARDED_BY(mu);
};

namespace {

// One call; lives until its answer.
struct Call {
  grpc::ClientContext context;
  HealthCheckResponse response;
};

}  // namespace

HealthProbe::HealthProbe(const std::string& address, const std::string& service)
    : state_(std::make_shared<State>(address)) {
  state_->request.set_service(service);
}

HealthProbe::~HealthProbe() = default;

void HealthProbe::Ask(absl::Duration timeout) {
  {
    absl::MutexLock lock(&state_->mu);
    if (state_->asking) return;
    state_->asking = true;
  }
  auto call = std::make_shared<Call>();
  call->context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  state_->stub->async()->Check(
      &call->context, &state_->request, &call->response,
      [state = state_, call](const grpc::Status& status) {
        absl::MutexLock lock(&state->mu);
        state->asking = false;
        if (!status.ok()) return;
        state->answer =
            Answer{absl::Now(), call->response.status() == HealthCheckResponse::SERVING};
      });
}

std::optional<HealthProbe::Answer> HealthProbe::Take() {
  absl::MutexLock lock(&state_->mu);
  std::optional<Answer> out;
  out.swap(state_->answer);
  return out;
}

}  // namespace chord::cli
