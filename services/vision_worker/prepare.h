// From the bytes of an image to the patches that the plan promised. Pure apart from the budget.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/cancel.h"
#include "common/image/frame_plan.h"
#include "common/image/image.h"
#include "common/image/preprocess.h"
#include "services/vision_worker/resource_budget.h"

namespace chord::vision_worker {

struct PatchRules {
  image::PatchGeometry geometry;
  image::Normalization normalization;
  image::Limits limits;
  int values_per_patch = 0;  // channels · temporal · patch²
  bool keep_pixels = false;  // the tower makes patches itself (VisionTower::prefers_pixels)
};

// `patches`, or with keep_pixels `pixels`: the resized image, interleaved RGB.
struct PreparedImage {
  std::vector<float> patches;
  std::vector<uint8_t> pixels;
  absl::Duration decode, preprocess;  // file -> pixels, pixels -> patches
};

// Patches: [plan.grid.patches(), values_per_patch] float32, merge-group order. Waits until the
// image's pixels fit into `pixels` and holds that permit while decoding. FRAME_MISMATCH when
// header or pixels are not what the plan says; the reasons of image::Decode; the status of
// `cancel`.
absl::StatusOr<PreparedImage> PreparePatches(absl::string_view bytes, const image::FramePlan& plan,
                                             const PatchRules& rules, ResourceBudget& pixels,
                                             const CancelToken& cancel);

}  // namespace chord::vision_worker
