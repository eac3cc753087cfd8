// The core behind both doors: checks, plans, picks, asks the workers, joins, maps.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/image/frame_plan.h"
#include "common/obs/metrics.h"
#include "services/gateway/answer.h"
#include "services/gateway/ground.h"
#include "services/gateway/prompt.h"
#include "services/gateway/worker_pool.h"

namespace chord::gateway {

// Thread-safe.
class Grounder {
 public:
  struct Options {
    image::PatchGeometry geometry;
    std::string fingerprint;
    std::string model_name;
    PromptWrapper wrapper = PromptWrapper::kNone;
    image::Limits image_limits;
    int64_t max_prompt_bytes = 0;
    int default_new_tokens = 0;
    int max_new_tokens = 0;
    absl::Duration default_deadline;
    absl::Duration max_deadline;
    absl::Duration worker_wait;
    int max_in_flight = 0;
    // Pictures of all requests under way together.
    int64_t max_image_bytes_in_flight = 256LL << 20;
    Thresholds thresholds;
    std::shared_ptr<const grounding::ConfidenceMap> confidence_map;  // null: raw confidences
  };
  // `pool` and `metrics` are not owned and outlive the grounder.
  Grounder(Options options, WorkerPool& pool, obs::Metrics& metrics)
      : options_(std::move(options)), pool_(pool), metrics_(metrics) {}

  // Blocks. Every error is of the catalogue.
  absl::StatusOr<GroundResult> Ground(const GroundInput& input);

  // OVERLOADED when a request that comes now would be refused; lets a door say so before it reads
  // a body.
  absl::Status Admission() const;
  int in_flight() const { return in_flight_.load(); }
  const Options& options() const { return options_; }

 private:
  absl::StatusOr<GroundResult> Run(const GroundInput& input, absl::Time deadline);

  const Options options_;
  WorkerPool& pool_;
  obs::Metrics& metrics_;
  std::atomic<int> in_flight_{0};
  std::atomic<int64_t> image_bytes_{0};
};

}  // namespace chord::gateway
