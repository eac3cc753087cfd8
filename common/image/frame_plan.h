// The frame contract: one derivation of every size on the way from a stored image to image
// tokens and back. Derived once (gateway), verified by the same function wherever it arrives.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "common/image/image.h"

namespace chord::image {

// What a checkpoint says about its images (preprocessor_config.json, vision_config).
struct PatchGeometry {
  int patch_size = 14;
  int merge_size = 2;
  int temporal_patch_size = 2;
  int64_t min_pixels = 3136;
  int64_t max_pixels = 1003520;
  int factor() const { return patch_size * merge_size; }
};

// Patches of one still image: t is always 1.
struct Grid {
  int h = 0;  // patches down; a multiple of merge_size
  int w = 0;  // patches across
  int64_t patches() const { return int64_t{h} * w; }
  int64_t tokens(int merge_size) const { return patches() / (int64_t{merge_size} * merge_size); }
  bool operator==(const Grid&) const = default;
};

struct Size {
  int width = 0;
  int height = 0;
  bool operator==(const Size&) const = default;
};

// smart_resize of the spec §2.3 in IEEE double, half to even. Sides >= 1.
// INVALID_ARGUMENT: aspect ratio over 200. The result is a multiple of factor on both sides.
absl::StatusOr<Size> SmartResize(Size size, const PatchGeometry& geometry);

struct FramePlan {
  Size stored;          // px in the file
  int orientation = 1;  // EXIF 1..8
  Size upright;         // px after orientation; the frame of all answers
  Size resized;         // px the model sees
  Grid grid;            // resized / patch_size
  int64_t tokens = 0;   // rows of embeddings, grid / merge²
  bool operator==(const FramePlan&) const = default;
};

absl::StatusOr<FramePlan> PlanFrame(const Header& header, const PatchGeometry& geometry,
                                    int64_t max_tokens = limits::kCeilingImageTokens);

// OK when `plan` is exactly what PlanFrame derives for its own stored size and orientation;
// FRAME_MISMATCH otherwise. The processes that receive a plan call this before they use it.
absl::Status VerifyFrame(const FramePlan& plan, const PatchGeometry& geometry);

// A box in any frame: corners, x2 > x1, y2 > y1, x2 may equal the width.
struct BoxF {
  double x1 = 0, y1 = 0, x2 = 0, y2 = 0;
};
struct Box {
  int x1 = 0, y1 = 0, x2 = 0, y2 = 0;
  bool operator==(const Box&) const = default;
};

// Resized px -> upright px: scaled per axis, ordered, clamped to the image, rounded to the
// nearest integer; a box that is thinner than a pixel after rounding is widened to one inside the
// image. nullopt when nothing of it lies inside or it has no area or is not finite.
std::optional<Box> ToUpright(const BoxF& resized_px, const FramePlan& plan);

}  // namespace chord::image
