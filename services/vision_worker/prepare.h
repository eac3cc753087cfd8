// From the bytes of a picture to the patches that the plan promised. Pure apart from the budget.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/cancel.h"
#include "common/image/frame_plan.h"
#include "common/image/image.h"
#include "common/image/preprocess.h"
#include "services/vision_worker/budget.h"

namespace chord::vision_worker {

struct PatchRules {
  image::PatchGeometry geometry;
  image::Normalization normalization;
  image::Limits limits;
  int values_per_patch = 0;  // channels · temporal · patch²
};

struct PreparedPicture {
  std::vector<float> patches;
  absl::Duration decode, preprocess;  // file -> pixels, pixels -> patches
};

// Patches: [plan.grid.patches(), values_per_patch] float32, merge-group order. Waits until the
// picture's pixels fit into `pixels` and holds that share while it decodes. FRAME_MISMATCH when
// header or pixels are not what the plan says; the reasons of image::Decode; the status of
// `cancel`.
absl::StatusOr<PreparedPicture> PreparePatches(absl::string_view bytes,
                                               const image::FramePlan& plan,
                                               const PatchRules& rules, Budget& pixels,
                                               const CancelToken& cancel);

}  // namespace chord::vision_worker
