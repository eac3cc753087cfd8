// What a tower's rows are, from the sizes of the images alone. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/engine/cuda/tower_api.h"
#include "common/image/frame_plan.h"
#include "common/model/model_config.h"

namespace chord::engine {

// Owns the arrays of a cuda::TowerPlan; the tables of the rotary embedding are the caller's.
struct TowerPlanArrays {
  std::vector<int32_t> source, pixel, stride, target;
  std::vector<int16_t> positions;
  std::vector<cuda::TowerSegment> windows, images;
  int side = 0;  // the longest, in patches
};

// `grids`: sides are positive multiples of the merge size, no side above 32,767, fewer than 2^31
// bytes of pixels together.
TowerPlanArrays PlanTower(absl::Span<const image::Grid> grids, const model::VisionConfig& config);

}  // namespace chord::engine
