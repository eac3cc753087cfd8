// Parts of images at a size that suits a reader. Pure.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "common/image/frame_plan.h"
#include "common/image/image.h"

namespace chord::cli::mcp {

// `box` with `margin` times its width and height added on each side, cut at the edges of the image.
// The box has an area inside the image; margin >= 0.
image::Box Expand(const image::Box& box, double margin, image::Size image);

// The size of `size` scaled so that its longer side is `max_side`, but enlarged at most
// `max_enlarge` times (1: only made smaller). Each side is at least 1.
image::Size Fit(image::Size size, int max_side, double max_enlarge);

// The pixels of `region`, which lies inside the image and has an area.
image::RgbImage Crop(const image::RgbImage& image, const image::Box& region);

// A PNG file in base64, resized to `size` first.
absl::StatusOr<std::string> ToBase64Png(const image::RgbImage& image, image::Size size);

}  // namespace chord::cli::mcp
