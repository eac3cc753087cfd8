// Decides which images the vision tower encodes together, and which cannot meet their deadline.
// Pure integer arithmetic: no tower, no threads, no clock. Sizes are patches (14 x 14 pixels of the
// resized image, one row of the tower's input); times are microseconds.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace chord::vision_worker {

// Estimates how long a batch takes, from the batches that ran. Thread-compatible.
//
// The model is one rate per patch with a floor of kMinPatches, below which the fixed cost of a
// batch dominates. Full attention grows faster than that, so a very large image may take longer
// than estimated: its deadline ends it then, not a refusal.
class CostModel {
 public:
  static constexpr int64_t kMinPatches = 256;

  // A batch of `patches` took `micros`. Recent and large batches weigh more. A batch that took many
  // times its estimate counts in part only: the process may have been stopped meanwhile, and an
  // idle device that is thought slow would refuse every request.
  void Observe(int64_t patches, int64_t micros);
  // Lowers the estimate by an eighth. To be called when an image was refused on an idle device:
  // nothing ran that could correct an estimate that is too high.
  void Decay();
  // Of one batch; 0 while nothing was observed. Saturates.
  int64_t Micros(int64_t patches) const;

 private:
  double micros_ = 0, patches_ = 0;  // exponentially weighted sums
  bool decayed_ = false;             // since the last observation
};

// How many patches a batch of several images may have. Thread-compatible.
class BatchLimit {
 public:
  // At least 1.
  explicit BatchLimit(int64_t configured) : configured_(configured), patches_(configured) {}
  // The device had no memory for a batch of `patches`: the limit becomes half of that.
  void OnOutOfMemory(int64_t patches);
  // A batch succeeded: a sixteenth of the configured limit comes back.
  void OnSuccess();
  int64_t patches() const { return patches_; }

 private:
  const int64_t configured_;
  int64_t patches_;
};

enum class Admission {
  kAdmit,
  kOverloaded,  // too late because of the work ahead: the client may retry
  kInfeasible,  // too late even on an idle device
};
// Whether an image that takes `own` can finish within `time_left` after work that takes `ahead`.
Admission CheckAdmission(int64_t ahead, int64_t own, int64_t time_left);

struct QueuedImage {
  int64_t patches = 0;    // > 0
  int64_t time_left = 0;  // until the deadline; INT64_MAX: no deadline
  bool cancelled = false;
};

enum class BatchAction {
  kWait,    // stays queued
  kRun,     // joins the batch that starts now
  kExpire,  // leaves the queue: it cannot finish in time, even alone and now
  kCancel,  // leaves the queue: its client cancelled it
};

// The action for each image of `queue`, which is in order of arrival. First come, first served: the
// batch takes images from the front while they fit into `max_patches`, and none overtakes. An image
// above that limit runs alone. A batch never grows beyond what the deadlines of its images allow.
// One image runs unless all leave.
std::vector<BatchAction> PlanBatch(absl::Span<const QueuedImage> queue, int64_t max_patches,
                                   const CostModel& cost);

}  // namespace chord::vision_worker
