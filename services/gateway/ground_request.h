// One request from its input to its result: resolve what it is about, dispatch it to workers,
// assemble the answer.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/obs/metrics.h"
#include "services/gateway/admission.h"
#include "services/gateway/ground.h"
#include "services/gateway/grounder.h"
#include "services/gateway/images/image_service.h"
#include "services/gateway/object_stream.h"
#include "services/gateway/prompt_plan.h"
#include "services/gateway/retry_policy.h"
#include "services/gateway/routing/worker_calls.h"
#include "services/gateway/routing/worker_pool.h"
#include "services/gateway/routing/worker_request.h"

namespace chord::gateway {

// Used by one thread. Runs once.
class GroundRequest {
 public:
  // What the requests of one gateway share; outlives them.
  struct Context {
    const Grounder::Options& options;
    ImageService& images;
    WorkerPool& pool;
    obs::Metrics& metrics;
    RetryBudget& retries;
  };
  GroundRequest(const Context& context, const GroundInput& input, absl::Time deadline)
      : context_(context), input_(input), deadline_(deadline) {}
  ~GroundRequest();
  GroundRequest(const GroundRequest&) = delete;
  GroundRequest& operator=(const GroundRequest&) = delete;

  absl::StatusOr<GroundResult> Run();

 private:
  // One attempt and what it has learnt.
  struct Attempt {
    WorkerId language, vision;  // the workers it went to
    AttemptFacts facts;
    bool no_worker = false;  // none was eligible in time
    absl::Time begun;        // of its calls
  };

  // Resolve: parameters, image, conversation, prompt.
  absl::Status Resolve();
  absl::Status ResolveImage();
  absl::Status ResolveConversation();
  void UseStored(ImageStore::Found found);

  // Dispatch: attempts, within the retry policy.
  absl::StatusOr<WorkerAnswer> Dispatch();
  absl::StatusOr<WorkerAnswer> DispatchOnce();
  absl::StatusOr<WorkerAnswer> TryWorkers(absl::Time workers_until);
  absl::StatusOr<WorkerPool::Lease> Acquire(WorkerPool::Role role, int64_t cost,
                                            const std::string& preferred, absl::Time until);
  bool BelievedHeld() const;
  std::vector<ChatTurn> SessionConversation() const;
  WorkerRequest MakeWorkerRequest(bool believed) const;
  void OnDelta(absl::string_view text);

  // Assemble: the result, and what stays for later requests.
  GroundResult Assemble(const WorkerAnswer& answer);
  void FillTiming(const WorkerAnswer& answer, GroundResult& out) const;
  void StoreImage(const WorkerAnswer& answer, GroundResult& out);

  const StoredImage& image() const { return stored_ != nullptr ? *stored_ : fresh_; }

  const Context context_;
  const GroundInput& input_;
  const absl::Time deadline_;

  int new_tokens_ = 0;
  PromptPlan plan_;  // as sent to the model
  // The image: stored before (`stored_`), or come with the prompt (`fresh_`, without bytes).
  StoredImageRef stored_;
  StoredImage fresh_;
  absl::string_view bytes_;
  ImageAffinity affinity_;
  bool may_store_ = false;  // a key goes to the worker, and the image is stored afterwards

  bool in_conversation_ = false;
  std::vector<SessionTurn> turns_;       // earlier ones, oldest first
  size_t dropped_turns_ = 0;             // of the oldest, which did not fit the model
  std::optional<SessionTurn> new_turn_;  // of this request, when it was answered

  Attempt attempt_;                 // the last one
  std::vector<WorkerId> excluded_;  // lost workers
  absl::Duration waited_;           // for workers
  std::optional<ObjectStream> objects_;
};

}  // namespace chord::gateway
