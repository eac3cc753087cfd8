// EmbeddingSink.Push: rows from vision workers into reservations. gRPC types stop here.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "chord/internal/v1/embedding.grpc.pb.h"
#include "common/obs/metrics.h"
#include "services/llm_worker/language_core.h"
#include "services/llm_worker/reservation.h"

namespace chord::llm_worker {

class SinkService final : public internal::v1::EmbeddingSink::CallbackService {
 public:
  struct Options {
    absl::Duration wait_for_ticket = absl::Seconds(2);  // a push may overtake its Decode
    absl::Duration header_timeout = absl::Seconds(10);
    absl::Duration stall_timeout = absl::Seconds(10);  // between two chunks
    // A writer that half-closes too early and one whose connection breaks look alike for a moment.
    absl::Duration broken_grace = absl::Milliseconds(300);
    size_t max_pushes = 256;
  };
  struct Deps {  // not owned; outlive the service
    TicketTable* tickets;
    std::function<Core*()> core;  // null while the model loads; outlives all calls
    obs::Metrics* metrics;
  };
  SinkService(const Options& options, Deps deps) : options_(options), deps_(std::move(deps)) {}
  ~SinkService() override;

  grpc::ServerBidiReactor<internal::v1::PushRequest, internal::v1::PushResponse>* Push(
      grpc::CallbackServerContext* context) override;

  // Ends pushes that stand still. Called several times a second.
  void Sweep(absl::Time now);
  size_t active() const;

 private:
  class Call;
  const Options options_;
  const Deps deps_;
  mutable absl::Mutex mu_;
  std::vector<std::weak_ptr<Call>> calls_ ABSL_GUARDED_BY(mu_);
};

}  // namespace chord::llm_worker
