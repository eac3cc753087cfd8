#include "services/vision_worker/batch_planner.h"

#include <algorithm>
#include <limits>

namespace chord::vision_worker {

void PassCost::Observe(int64_t patches, int64_t micros) {
  constexpr double kFade = 0.75;
  constexpr double kBelieved = 4;  // times what was to be expected
  auto took = static_cast<double>(std::max<int64_t>(micros, 0));
  const auto expected = static_cast<double>(Micros(patches));
  if (expected > 0 && !doubted_) took = std::min(took, kBelieved * expected);
  doubted_ = false;
  patches_ = patches_ * kFade + static_cast<double>(std::max(patches, kSmallPass));
  micros_ = micros_ * kFade + took;
}

void PassCost::Doubt() {
  micros_ *= 7.0 / 8;
  doubted_ = true;
}

int64_t PassCost::Micros(int64_t patches) const {
  if (patches_ == 0) return 0;
  const double micros = micros_ / patches_ * static_cast<double>(std::max(patches, kSmallPass));
  constexpr double kMost = 1e15;  // thirty years
  return static_cast<int64_t>(std::min(micros, kMost));
}

void BatchBudget::RanOutOfMemory(int64_t patches) {
  limit_ = std::clamp<int64_t>(patches / 2, 1, limit_);
}

void BatchBudget::Ran() {
  limit_ = std::min(configured_, limit_ + std::max<int64_t>(configured_ / 16, 1));
}

Admission Admit(int64_t ahead, int64_t own, int64_t left) {
  if (own > left) return Admission::kHopeless;
  return ahead > left - own ? Admission::kBusy : Admission::kTake;
}

std::vector<Fate> PlanBatch(absl::Span<const WaitingImage> line, int64_t max_patches,
                            const PassCost& cost) {
  std::vector<Fate> fates(line.size(), Fate::kWait);
  int64_t patches = 0;                                 // of the pass
  int64_t left = std::numeric_limits<int64_t>::max();  // of its most urgent image
  bool open = true;
  for (size_t i = 0; i < line.size(); ++i) {
    const WaitingImage& image = line[i];
    if (image.cancelled) {
      fates[i] = Fate::kCancelled;
    } else if (!open) {
      continue;  // the rest is only searched for cancelled ones
    } else if (cost.Micros(image.patches) > image.left) {
      fates[i] = Fate::kLate;
    } else if (patches == 0 ||
               (image.patches <= max_patches - patches &&
                cost.Micros(patches + image.patches) <= std::min(left, image.left))) {
      fates[i] = Fate::kRun;
      patches += image.patches;
      left = std::min(left, image.left);
    } else {
      open = false;
    }
  }
  return fates;
}

}  // namespace chord::vision_worker
