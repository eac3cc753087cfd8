// One prompt of a request through the workers: picks them, calls them, retries within the policy.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/cancel.h"
#include "common/obs/metrics.h"
#include "services/gateway/ground.h"
#include "services/gateway/grounder.h"
#include "services/gateway/images/image_service.h"
#include "services/gateway/retry_policy.h"
#include "services/gateway/routing/worker_calls.h"
#include "services/gateway/routing/worker_pool.h"
#include "services/gateway/routing/worker_request.h"

namespace chord::gateway {

// The image of a request: stored before (`stored`), or come with it (`fresh`, without bytes).
struct RequestImage {
  StoredImageRef stored;
  StoredImage fresh;
  absl::string_view bytes;  // the file
  bool keyed = false;       // its key goes to the worker, and it is stored afterwards

  const StoredImage& get() const { return stored != nullptr ? *stored : fresh; }
};

// Used by one thread. Runs once.
class PromptPass {
 public:
  // What the requests of one gateway share; outlives them.
  struct Context {
    const Grounder::Options& options;
    ImageService& images;
    WorkerPool& pool;
    obs::Metrics& metrics;
    RetryBudget& retries;
    Executor& executor;
  };
  struct Task {
    std::string prompt;
    bool grammar = true;
    int new_tokens = 0;
    std::vector<SessionTurn> turns;  // earlier ones of the session, oldest first
    ImageAffinity affinity;          // where the image is
    absl::Time deadline;
    CancelToken cancel;
    std::function<void(absl::string_view)> on_delta;  // may be null; on a thread of gRPC
    // The language worker has the request, and the image's rows or a place for them: other prompts
    // about it can follow. On a thread of gRPC, once an attempt. May be null.
    std::function<void(const WorkerId& language)> on_accepted;
  };
  // `input` and `image` outlive the object.
  PromptPass(const Context& context, const GroundInput& input, const RequestImage& image, Task task)
      : context_(context), input_(input), image_(image), task_(std::move(task)) {}
  PromptPass(const PromptPass&) = delete;
  PromptPass& operator=(const PromptPass&) = delete;

  // Blocks. A session that outgrows the model loses its oldest turns.
  absl::StatusOr<WorkerAnswer> Run();

  // After Run, of the last attempt.
  const WorkerId& language() const { return attempt_.language; }
  const WorkerId& vision() const { return attempt_.vision; }
  absl::Time begun() const { return attempt_.begun; }
  absl::Duration waited() const { return waited_; }        // for workers
  size_t dropped_turns() const { return dropped_turns_; }  // of the oldest

 private:
  // One attempt and what it has learnt.
  struct Attempt {
    WorkerId language, vision;  // the workers it went to
    AttemptFacts facts;
    bool no_worker = false;  // none was eligible in time
    absl::Time begun;        // of its calls
  };

  absl::StatusOr<WorkerAnswer> RunOnce();
  absl::StatusOr<WorkerAnswer> TryWorkers(absl::Time workers_until);
  absl::StatusOr<WorkerPool::Lease> Acquire(WorkerPool::Role role, int64_t cost,
                                            const std::string& preferred, absl::Time until);
  absl::Status AcquireVision(absl::Time until, WorkerPool::Lease& vision);
  bool BelievedHeld() const;
  std::vector<ChatTurn> SessionConversation() const;
  std::vector<ChatTurn> Conversation() const;
  WorkerRequest MakeWorkerRequest(bool believed) const;

  const Context context_;
  const GroundInput& input_;
  const RequestImage& image_;
  Task task_;
  size_t dropped_turns_ = 0;
  Attempt attempt_;                 // the last one
  std::vector<WorkerId> excluded_;  // lost workers
  absl::Duration waited_;
};

}  // namespace chord::gateway
