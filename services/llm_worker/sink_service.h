// EmbeddingSink.Push: embeddings from vision workers into reservations.
#pragma once

#include <cstddef>

#include "absl/time/time.h"
#include "chord/internal/v1/embedding.grpc.pb.h"
#include "common/obs/metrics.h"
#include "common/process/loaded_model.h"
#include "common/rpc/call.h"
#include "services/llm_worker/language_core.h"
#include "services/llm_worker/reservation.h"

namespace chord::llm_worker {

class SinkService final : public internal::v1::EmbeddingSink::CallbackService {
 public:
  struct Options {
    absl::Duration wait_for_ticket = absl::Seconds(2);  // a push may arrive before its Decode
    absl::Duration header_timeout = absl::Seconds(10);
    absl::Duration stall_timeout = absl::Seconds(10);  // between two chunks
    // A writer that half-closes too early and one whose connection breaks look alike until gRPC
    // reports the cancellation.
    absl::Duration broken_grace = absl::Milliseconds(300);
    size_t max_pushes = 256;
  };
  struct Deps {  // not owned; outlive the service
    TicketTable* tickets;
    const process::LoadedModel<Core>* loaded;
    obs::Metrics* metrics;
  };
  SinkService(const Options& options, const Deps& deps)
      : options_(options), deps_(deps), calls_(options.max_pushes) {}

  grpc::ServerBidiReactor<internal::v1::PushRequest, internal::v1::PushResponse>* Push(
      grpc::CallbackServerContext* context) override;

  // Ends pushes that have stalled. To be called several times a second.
  void Sweep(absl::Time now) { calls_.Sweep(now); }
  size_t active() const { return calls_.active(); }

 private:
  class Call;
  const Options options_;
  const Deps deps_;
  rpc::CallRegistry calls_;
};

}  // namespace chord::llm_worker
