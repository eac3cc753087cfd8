// Which images go through the tower together, and which cannot be done in time. Integers only: no
// tower, no threads, no clock. Patches are the tower's rows (14 x 14 pixels of the resized
// image); times are microseconds.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace chord::vision_worker {

// What a pass costs, learned from the passes that ran. Thread-compatible.
//
// A pass is taken to cost one rate per patch, and never less than kSmallPass patches: below that
// the fixed cost of a pass dominates. Full attention grows faster, so very large images may take
// longer than estimated: they are then ended by their deadline and not by a refusal.
class PassCost {
 public:
  static constexpr int64_t kSmallPass = 256;

  // A pass of `patches` took `micros`. Recent and large passes weigh more. One that took many times
  // what was to be expected is believed in part: the process may have been stopped in the midst of
  // it, and an idle device that is thought slow would refuse everybody.
  void Observe(int64_t patches, int64_t micros);
  // An image was refused although nothing was in its way. Nothing ran that could correct an
  // estimate that is too high, so it comes down by an eighth.
  void Doubt();
  // Of one pass; 0 while nothing is known. Saturates.
  int64_t Micros(int64_t patches) const;

 private:
  double micros_ = 0, patches_ = 0;  // sums whose older parts fade
  bool doubted_ = false;             // since the last pass
};

// The patches that one pass over several images may have. Thread-compatible.
class BatchBudget {
 public:
  // At least 1.
  explicit BatchBudget(int64_t configured) : configured_(configured), limit_(configured) {}
  // The device had no memory for a pass of `patches`: half of it next time.
  void RanOutOfMemory(int64_t patches);
  // A pass went well: a sixteenth of what is configured comes back.
  void Ran();
  int64_t limit() const { return limit_; }

 private:
  const int64_t configured_;
  int64_t limit_;
};

enum class Admission {
  kTake,
  kBusy,      // too late because of what is ahead: the client may come back
  kHopeless,  // too late even on an idle device
};
// Whether an image that costs `own` can be done within `left` behind work of `ahead`.
Admission Admit(int64_t ahead, int64_t own, int64_t left);

struct WaitingImage {
  int64_t patches = 0;  // > 0
  int64_t left = 0;     // until its deadline; INT64_MAX: it has none
  bool cancelled = false;
};

enum class Fate {
  kWait,       // stays in the line
  kRun,        // is in the pass that begins now
  kLate,       // leaves: it could not finish in time, even alone and now
  kCancelled,  // leaves
};

// The fate of each image of `line`, which is in the order of arrival. First come, first served:
// the pass takes images from the front while they fit into `max_patches`, and none overtakes. A
// image that is larger than that runs alone. A pass never grows beyond what the deadlines of its
// images allow, so sharing a batch makes no image late. Unless all leave, one runs.
std::vector<Fate> PlanBatch(absl::Span<const WaitingImage> line, int64_t max_patches,
                            const PassCost& cost);

}  // namespace chord::vision_worker
