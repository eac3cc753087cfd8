// Boxes drawn on images, for people to look at.
#pragma once

#include <string>

#include "absl/types/span.h"
#include "common/image/frame_plan.h"
#include "common/image/image.h"

namespace chord::plot {

struct AnnotatedBox {
  image::Box box = {};        // upright px; the part inside the image is drawn
  std::string label = {};     // UTF-8, one line; characters that no installed font has are left out
  bool needs_review = false;  // orange instead of green
};

// A copy of `image` with each box outlined in green (0, 255, 0), or in orange (255, 160, 0) where
// it needs review, its label on a bar of that colour, and `note`, if there is one, on a bar at the
// bottom. The line straddles the box's edge and is at least 2 px, wider on larger images.
// Deterministic for given fonts; thread-safe.
image::RgbImage Annotate(const image::RgbImage& image, absl::Span<const AnnotatedBox> boxes,
                         const std::string& note = "");

}  // namespace chord::plot
