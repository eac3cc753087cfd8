// One thread that owns the vision tower and the line before it.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/base/cancel.h"
#include "common/engine/vision_tower.h"
#include "common/image/frame_plan.h"
#include "common/obs/metrics.h"
#include "services/vision_worker/batch_planner.h"
#include "services/vision_worker/pixel_budget.h"

namespace chord::vision_worker {

struct EncodeJob {
  Budget::Share place;          // from Admit; goes back with the patches
  std::vector<float> patches;   // of one image, or ...
  std::vector<uint8_t> pixels;  // ... its pixels, when the tower prefers them
  image::Grid grid;
  CancelToken cancel;
  struct Result {
    engine::VisionTower::Output rows;  // of this image alone
    absl::Duration queue;              // Submit to the start of its pass
    absl::Duration compute;            // the whole pass, which it may have shared
  };
  // Called exactly once, on the queue's thread or on the one that sweeps; must not block.
  std::function<void(absl::StatusOr<Result>)> done;
};

// Thread-safe. First come, first served; images that wait together go through the tower in one
// packed pass (batch_planner.h). What happens to one image of a pass does not touch the others: a
// pass is stopped only when all of its images are cancelled, and a pass that fails is run again
// image by image.
class EncodeQueue {
 public:
  struct Options {
    int max_queue = 32;  // images in the line
    // Patches of one pass over several images; a larger image runs alone.
    int64_t max_batch_patches = 512;
    // Patches of all images that were admitted and not yet encoded: bounds the memory of what
    // waits, 4.6 KiB each. The default is two of the largest images, 620 MB.
    int64_t max_patches = 131'072;
  };
  // `tower` and `metrics` are not owned; only the queue uses the tower.
  EncodeQueue(engine::VisionTower* tower, const Options& options, obs::Metrics* metrics);
  // Ends what waits with SHUTTING_DOWN. All shares of Admit must be back.
  ~EncodeQueue();

  // Asked as soon as the size of an image is known, before it is uploaded and decoded: may it
  // come? OVERLOADED with a time to wait when patches of others fill the queue or when the estimate
  // says that they will keep it past `deadline`; DEADLINE_EXCEEDED when an idle device would be too
  // slow. The share counts in patches_in_flight.
  absl::StatusOr<Budget::Share> Admit(int64_t patches, absl::Time deadline);
  // OVERLOADED with a time to wait when the line is full; `job.done` is not called then.
  absl::Status Submit(EncodeJob job);
  // Ends jobs in the line that were cancelled or ran out of time. Called several times a second.
  void Sweep();
  // What a pass of `patches` took, for the estimates before the first real one.
  void Observe(int64_t patches, absl::Duration took);

  int queued() const;
  absl::Duration oldest() const;  // how long the first in the line has waited; zero: none
  int running() const;            // images of the pass under way
  int64_t patches_in_flight() const { return places_.taken(); }
  // When a client that is refused now should come back.
  absl::Duration EstimateWait() const;

 private:
  struct Waiting {
    EncodeJob job;
    absl::Time since;
    bool behind = false;  // others ran or waited when it came
  };
  using Pass = std::vector<Waiting>;

  int64_t AheadLocked(int64_t patches, absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Duration EstimateWaitLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // False when the queue stops.
  bool TakePass(Pass* pass);
  void RunPass(Pass pass);
  // Patches, or without any, pixels.
  absl::StatusOr<engine::VisionTower::Output> Encode(absl::Span<const float> patches,
                                                     absl::Span<const uint8_t> pixels,
                                                     absl::Span<const image::Grid> grids,
                                                     const CancelToken& cancel);
  void Run();

  engine::VisionTower* const tower_;
  const Options options_;
  obs::Metrics* const metrics_;
  Budget places_;
  mutable absl::Mutex mu_;
  absl::CondVar changed_;
  std::deque<Waiting> line_ ABSL_GUARDED_BY(mu_);
  PassCost cost_ ABSL_GUARDED_BY(mu_);
  BatchBudget budget_ ABSL_GUARDED_BY(mu_);
  struct {
    int images = 0;
    int64_t patches = 0;
    absl::Time began;
  } running_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace chord::vision_worker
