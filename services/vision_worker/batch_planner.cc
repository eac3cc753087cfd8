#include "services/vision_worker/batch_planner.h"

#include <algorithm>
#include <limits>

namespace chord::vision_worker {

void CostModel::Observe(int64_t patches, int64_t micros) {
  constexpr double kDecay = 0.75;     // weight of the past against one new batch
  constexpr double kMaxSlowdown = 4;  // against the estimate
  auto took = static_cast<double>(std::max<int64_t>(micros, 0));
  const auto expected = static_cast<double>(Micros(patches));
  if (expected > 0 && !decayed_) took = std::min(took, kMaxSlowdown * expected);
  decayed_ = false;
  patches_ = patches_ * kDecay + static_cast<double>(std::max(patches, kMinPatches));
  micros_ = micros_ * kDecay + took;
}

void CostModel::Decay() {
  micros_ *= 7.0 / 8;
  decayed_ = true;
}

int64_t CostModel::Micros(int64_t patches) const {
  if (patches_ == 0) return 0;
  const double micros = micros_ / patches_ * static_cast<double>(std::max(patches, kMinPatches));
  constexpr double kMax = 1e15;  // thirty years
  return static_cast<int64_t>(std::min(micros, kMax));
}

void BatchLimit::OnOutOfMemory(int64_t patches) {
  patches_ = std::clamp<int64_t>(patches / 2, 1, patches_);
}

void BatchLimit::OnSuccess() {
  patches_ = std::min(configured_, patches_ + std::max<int64_t>(configured_ / 16, 1));
}

Admission CheckAdmission(int64_t ahead, int64_t own, int64_t time_left) {
  if (own > time_left) return Admission::kInfeasible;
  return ahead > time_left - own ? Admission::kOverloaded : Admission::kAdmit;
}

std::vector<BatchAction> PlanBatch(absl::Span<const QueuedImage> queue, int64_t max_patches,
                                   const CostModel& cost) {
  std::vector<BatchAction> actions(queue.size(), BatchAction::kWait);
  int64_t batch_patches = 0;
  int64_t batch_time_left = std::numeric_limits<int64_t>::max();  // of its most urgent image
  bool batch_is_open = true;
  for (size_t i = 0; i < queue.size(); ++i) {
    const QueuedImage& image = queue[i];
    const int64_t time_left = std::min(batch_time_left, image.time_left);
    if (image.cancelled) {
      actions[i] = BatchAction::kCancel;
    } else if (!batch_is_open) {
      continue;  // what follows is only searched for cancelled images
    } else if (cost.Micros(image.patches) > image.time_left) {
      actions[i] = BatchAction::kExpire;
    } else if (batch_patches == 0 || (image.patches <= max_patches - batch_patches &&
                                      cost.Micros(batch_patches + image.patches) <= time_left)) {
      actions[i] = BatchAction::kRun;
      batch_patches += image.patches;
      batch_time_left = time_left;
    } else {
      batch_is_open = false;
    }
  }
  return actions;
}

}  // namespace chord::vision_worker
