#pragma once

#include <grpcpp/support/server_callback.h>

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "common/obs/metrics.h"
#include "common/rpc/call.h"
#include "common/rpc/status_map.h"
#include "services/gateway/grpc/call_support.h"
#include "services/gateway/request_scope.h"

namespace chord::gateway {

// A unary call that ends at once with `status`; the response, if any, is written already.
class ImmediateCall final : public rpc::ServerCall<grpc::ServerUnaryReactor> {
 public:
  // `method`: counts as a request of it; without one only a refusal is counted.
  ImmediateCall(grpc::CallbackServerContext* context, obs::Metrics& metrics,
                const absl::Status& status, std::optional<obs::Method> method = std::nullopt)
      : ServerCall(absl::InfiniteFuture(), absl::InfiniteDuration()),
        metrics_(metrics),
        status_(status),
        method_(method),
        client_id_(Announce(context, id_)) {}

 private:
  void Begin() override { End(status_); }
  void OnEnd(const absl::Status& status) override {
    if (method_) {
      RequestScope(metrics_, *method_, id_, client_id_, received()).EndWithout(status);
    } else if (!status.ok()) {
      Refused(metrics_, id_, status);
    }
    Finish(rpc::ToGrpc(status, id_));
  }

  obs::Metrics& metrics_;
  const absl::Status status_;
  const std::optional<obs::Method> method_;
  const std::string id_ = NewRequestId();
  const std::string client_id_;
};

}  // namespace chord::gateway
