#include "services/vision_worker/prepare.h"

#include <utility>

#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"

namespace chord::vision_worker {

absl::StatusOr<PreparedImage> PreparePatches(absl::string_view bytes, const image::FramePlan& plan,
                                             const PatchRules& rules, ResourceBudget& pixels,
                                             const CancelToken& cancel) {
  const absl::Time began = absl::Now();
  CHORD_ASSIGN_OR_RETURN(const auto header, image::Probe(bytes, rules.limits));
  // Before any pixel: the plan was made from these numbers.
  if (header.width != plan.stored.width || header.height != plan.stored.height ||
      header.orientation != plan.orientation) {
    return errors::FrameMismatch();
  }
  CHORD_ASSIGN_OR_RETURN(auto permit,
                         pixels.Acquire(int64_t{header.width} * header.height, cancel));
  image::DecodeOptions options;
  options.limits = rules.limits;
  CHORD_ASSIGN_OR_RETURN(auto image, image::Decode(bytes, options, cancel));
  if (image.width != plan.upright.width || image.height != plan.upright.height) {
    return errors::FrameMismatch();
  }
  CHORD_RETURN_IF_ERROR(cancel.Check());
  const absl::Time decoded = absl::Now();
  image = image::Resize(std::move(image), plan.resized, image::ResizeMode::kTorch);
  permit.Release();
  CHORD_RETURN_IF_ERROR(cancel.Check());
  PreparedImage out;
  if (rules.keep_pixels) {
    out.pixels = std::move(image.rgb);
  } else {
    out.patches.resize(plan.grid.patches() * rules.values_per_patch);
    CHORD_RETURN_IF_ERROR(image::Patchify(image, rules.geometry, rules.normalization,
                                          image::ResizeMode::kTorch, absl::MakeSpan(out.patches)));
  }
  out.decode = decoded - began;
  out.preprocess = absl::Now() - decoded;
  return out;
}

}  // namespace chord::vision_worker
