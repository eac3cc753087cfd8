// The core behind both endpoints: admits a request, gives it its deadline, and runs it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/executor.h"
#include "common/grounding/confidence.h"
#include "common/obs/metrics.h"
#include "services/gateway/admission.h"
#include "services/gateway/answer_builder.h"
#include "services/gateway/ground.h"
#include "services/gateway/images/image_service.h"
#include "services/gateway/prompt_plan.h"
#include "services/gateway/routing/worker_pool.h"

namespace chord::gateway {

// Thread-safe.
class Grounder {
 public:
  struct Options {
    std::string fingerprint;
    std::string model_name;
    PromptStyle style;
    int64_t max_prompt_bytes = 0;
    int default_new_tokens = 0;
    int max_new_tokens = 0;
    absl::Duration default_deadline;
    absl::Duration max_deadline;
    absl::Duration worker_wait;  // how long a request waits for a ready worker
    // How long a request whose worker was lost waits for another one, or for that one's next epoch.
    absl::Duration retry_wait = absl::Milliseconds(500);
    // Retries at once, beyond the share of the traffic that they may be (RetryBudget): what a lost
    // worker had under way must not fail while others are idle.
    double retry_burst = 10;
    Thresholds thresholds;
    std::shared_ptr<const grounding::ConfidenceMap> confidence_map;  // null: raw confidences
  };
  // The others are not owned and outlive the grounder. `executor` runs the further prompts of a
  // request that has one a label.
  Grounder(Options options, Admission& admission, ImageService& images, WorkerPool& pool,
           obs::Metrics& metrics, Executor& executor)
      : options_(std::move(options)),
        admission_(admission),
        images_(images),
        pool_(pool),
        metrics_(metrics),
        executor_(executor),
        retries_(0.1, options_.retry_burst) {}

  // Blocks. Every error is of the catalogue. An image that came with its prompt is stored when the
  // prompt has been answered; a request that fails leaves nothing behind.
  //
  // When a worker is lost before any of the answer has been sent, the request is sent once more to
  // another one, or to the same one in its next epoch, within the retry budget.
  absl::StatusOr<GroundResult> Ground(const GroundInput& input);

 private:
  const Options options_;
  Admission& admission_;
  ImageService& images_;
  WorkerPool& pool_;
  obs::Metrics& metrics_;
  Executor& executor_;
  RetryBudget retries_;
};

}  // namespace chord::gateway
