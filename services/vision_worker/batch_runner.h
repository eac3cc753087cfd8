// Runs batches of images through the vision tower and splits the result.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/base/cancel.h"
#include "common/engine/vision_tower.h"
#include "common/image/frame_plan.h"
#include "services/vision_worker/encode_job.h"

namespace chord::vision_worker {

// Images of one batch do not affect each other: a batch stops early only when all of its images are
// cancelled, and a batch that fails runs again image by image. Used by one thread.
class BatchRunner {
 public:
  // One run of the tower that was not cancelled before it began.
  struct TowerRun {
    int64_t images = 0, patches = 0;
    absl::Duration took;
    absl::Status status;
  };
  using Observer = std::function<void(const TowerRun& run)>;

  // `tower` is not owned and used by this object alone. `observe` is called after each run of it,
  // before the results are delivered.
  BatchRunner(engine::VisionTower* tower, Observer observe)
      : tower_(tower), observe_(std::move(observe)) {}

  // Calls `done` of each job; their permits are back before. `batch` must not be empty.
  void Run(std::vector<QueuedJob> batch);

 private:
  class Inputs;
  struct Encoded {
    absl::StatusOr<engine::VisionTower::Output> output;
    absl::Time began;
    absl::Duration took;
  };

  // Of `patches`, or of `pixels` when there are no patches.
  Encoded Encode(absl::Span<const float> patches, absl::Span<const uint8_t> pixels,
                 absl::Span<const image::Grid> grids, const CancelToken& cancel);
  void RunOneByOne(std::vector<QueuedJob> batch, Inputs inputs);

  engine::VisionTower* const tower_;
  const Observer observe_;
};

}  // namespace chord::vision_worker
