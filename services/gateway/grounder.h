// The core behind both doors: checks, plans, picks, asks the workers, joins, maps.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/image/frame_plan.h"
#include "common/obs/metrics.h"
#include "services/gateway/admission.h"
#include "services/gateway/answer_builder.h"
#include "services/gateway/ground.h"
#include "services/gateway/images/image_service.h"
#include "services/gateway/prompt.h"
#include "services/gateway/routing/worker_calls.h"
#include "services/gateway/routing/worker_pool.h"

namespace chord::gateway {

// Thread-safe.
class Grounder {
 public:
  struct Options {
    std::string fingerprint;
    std::string model_name;
    PromptWrapper wrapper = PromptWrapper::kNone;
    int64_t max_prompt_bytes = 0;
    int default_new_tokens = 0;
    int max_new_tokens = 0;
    absl::Duration default_deadline;
    absl::Duration max_deadline;
    absl::Duration worker_wait;
    // How long a request whose worker was lost waits for another one, or for that one's next life.
    absl::Duration retry_wait = absl::Milliseconds(500);
    // Retries at once, beyond the share of the traffic that they may be (RetryBudget): what a lost
    // worker had under way must not fail while others are idle.
    double retry_burst = 10;
    int max_batch = 64;
    Thresholds thresholds;
    std::shared_ptr<const grounding::ConfidenceMap> confidence_map;  // null: raw confidences
  };
  // The others are not owned and outlive the grounder.
  Grounder(Options options, Admission& admission, ImageService& images, WorkerPool& pool,
           obs::Metrics& metrics)
      : options_(std::move(options)),
        admission_(admission),
        image_service_(images),
        pool_(pool),
        metrics_(metrics),
        retries_(0.1, options_.retry_burst) {}

  // Blocks. Every error is of the catalogue. An image that came with its prompt is kept when the
  // prompt has been answered; a prompt that fails leaves nothing behind.
  //
  // When a worker is lost before a word of the answer has gone out, the request is asked once more
  // of another one, or of the same one in its next life, within the retry budget.
  absl::StatusOr<GroundResult> Ground(const GroundInput& input);

  // OVERLOADED or CLIENT_LIMIT when a request that comes now would be refused; lets a door say so
  // before it reads a body.
  absl::Status CheckAdmission(absl::string_view client) const { return admission_.Check(client); }
  Admission& admission() { return admission_; }
  ImageService& images() { return image_service_; }
  const Options& options() const { return options_; }

 private:
  struct Subject;
  struct Asked;
  absl::StatusOr<GroundResult> Run(const GroundInput& input, absl::Time deadline);
  absl::StatusOr<Subject> Find(const GroundInput& input);
  absl::StatusOr<WorkerCallsOutput> Ask(const GroundInput& input, const Subject& subject,
                                        absl::Span<const SessionTurn> turns,
                                        absl::string_view prompt, int new_tokens,
                                        absl::Time deadline, Asked& asked);
  absl::StatusOr<WorkerCallsOutput> AskOnce(const GroundInput& input, const Subject& subject,
                                            absl::Span<const SessionTurn> turns,
                                            absl::string_view prompt, int new_tokens,
                                            absl::Time deadline, absl::Time worker_until,
                                            Asked& asked);

  const Options options_;
  Admission& admission_;
  ImageService& image_service_;
  WorkerPool& pool_;
  obs::Metrics& metrics_;
  RetryBudget retries_;
};

}  // namespace chord::gateway
