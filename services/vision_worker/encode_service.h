// Vision.Encode: an image comes in, its embeddings go to a language worker.
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "chord/internal/v1/encode.grpc.pb.h"
#include "common/base/executor.h"
#include "common/obs/metrics.h"
#include "common/process/call_gate.h"
#include "common/process/loaded_model.h"
#include "common/rpc/call.h"
#include "services/vision_worker/resource_budget.h"
#include "services/vision_worker/vision_core.h"

namespace chord::vision_worker {

class EncodeService final : public internal::v1::Vision::CallbackService {
 public:
  struct Options {
    int64_t max_image_bytes = 0;
    int max_inside = 0;                                     // calls at once; more are OVERLOADED
    absl::Duration stall_timeout = absl::Seconds(10);       // between two chunks of the image
    absl::Duration broken_grace = absl::Milliseconds(300);  // half-closed early or cancelled?
  };
  struct Deps {  // not owned; outlive the service
    process::CallGate* gate;
    Executor* executor;                        // decodes images
    ResourceBudget* bytes;                     // encoded images held at once
    ResourceBudget* pixels;                    // images being decoded at once
    const process::LoadedModel<Core>* loaded;  // not null once the gate is open
    obs::Metrics* metrics;
  };
  EncodeService(const Options& options, const Deps& deps) : options_(options), deps_(deps) {}

  grpc::ServerReadReactor<internal::v1::EncodeRequest>* Encode(
      grpc::CallbackServerContext* context, internal::v1::EncodeResponse* response) override;

  // Ends uploads that have stalled. To be called several times a second.
  void Sweep(absl::Time now) { calls_.Sweep(now); }

 private:
  class Call;
  const Options options_;
  const Deps deps_;
  rpc::CallRegistry calls_;
};

}  // namespace chord::vision_worker
