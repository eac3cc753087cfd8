// One image on its way through the encode queue.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/cancel.h"
#include "common/engine/vision_tower.h"
#include "common/image/frame_plan.h"
#include "services/vision_worker/resource_budget.h"

namespace chord::vision_worker {

struct EncodeJob {
  ResourceBudget::Permit permit;  // from EncodeQueue::Admit; released with the patches
  std::vector<float> patches;     // of one image, or ...
  std::vector<uint8_t> pixels;    // ... its pixels, when the tower prefers them
  image::Grid grid;
  CancelToken cancel;
  struct Result {
    engine::VisionTower::Output embeddings;  // of this image alone
    absl::Duration queue;                    // Submit to the start of its batch
    absl::Duration compute;                  // of the whole batch
  };
  // Called exactly once, on the queue's thread or on the one that sweeps; must not block.
  std::function<void(absl::StatusOr<Result>)> done;
};

struct QueuedJob {
  EncodeJob job;
  absl::Time queued_at;
  bool contended = false;  // other jobs ran or waited when it was submitted
};

}  // namespace chord::vision_worker
