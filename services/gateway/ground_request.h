// One request from its input to its result: resolve what it is about, send its prompts to workers,
// assemble the answer.
#pragma once

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "common/base/cancel.h"
#include "services/gateway/ground.h"
#include "services/gateway/images/image_service.h"
#include "services/gateway/pass_stream.h"
#include "services/gateway/prompt_pass.h"
#include "services/gateway/prompt_plan.h"
#include "services/gateway/routing/worker_request.h"

namespace chord::gateway {

// Used by one thread. Runs once.
class GroundRequest {
 public:
  using Context = PromptPass::Context;
  GroundRequest(const Context& context, const GroundInput& input, absl::Time deadline)
      : context_(context), input_(input), deadline_(deadline) {}
  ~GroundRequest();
  GroundRequest(const GroundRequest&) = delete;
  GroundRequest& operator=(const GroundRequest&) = delete;

  absl::StatusOr<GroundResult> Run();

 private:
  // Resolve: parameters, image, conversation, prompts.
  absl::Status Resolve();
  absl::Status ResolveImage();
  absl::Status ResolveConversation();
  void UseStored(ImageStore::Found found);

  // Dispatch: every prompt is a pass. The first takes the image to a language worker; when the
  // worker has the request, the others follow it there and share the image's rows: their tokens are
  // decoded in the same steps. The first that fails ends them all.
  absl::Status RunPasses();
  absl::Status RunPass(size_t index, PassStream& stream);
  absl::Status FollowFirst();
  PromptPass::Task MakeTask(size_t index);
  void ShareImage(const WorkerId& language);

  // Assemble: the result, and what stays for later requests.
  GroundResult AssemblePart(const WorkerAnswer& answer, const PromptPass& pass) const;
  GroundResult Assemble();
  void StoreImage(GroundResult& out);

  const image::FramePlan& plan() const { return image_.get().plan; }

  const Context context_;
  const GroundInput& input_;
  const absl::Time deadline_;

  int new_tokens_ = 0;
  PromptPlan prompts_;  // as sent to the model
  RequestImage image_;
  ImageAffinity affinity_;  // before the request, then of the first pass

  bool in_conversation_ = false;
  std::vector<SessionTurn> turns_;      // earlier ones, oldest first
  std::vector<SessionTurn> new_turns_;  // of this request, when it was answered

  absl::Notification image_shared_;  // the other passes may begin
  CancelSource passes_;              // ends them
  absl::Mutex mu_;
  absl::Status failure_ ABSL_GUARDED_BY(mu_);             // of the pass that failed first
  std::vector<GroundResult> parts_ ABSL_GUARDED_BY(mu_);  // a pass
  absl::Duration waited_ ABSL_GUARDED_BY(mu_);            // for workers, the longest
  size_t dropped_turns_ ABSL_GUARDED_BY(mu_) = 0;         // of the oldest, which did not fit
  ImageAffinity image_at_ ABSL_GUARDED_BY(mu_);           // where the first pass left it
};

}  // namespace chord::gateway
