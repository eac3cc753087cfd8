// Boxes drawn on images, for people to look at.
#pragma once

#include <string>

#include "absl/types/span.h"
#include "common/image/frame_plan.h"
#include "common/image/image.h"

namespace chord::plot {

struct AnnotatedBox {
  image::Box box;     // upright px; the part inside the image is drawn
  std::string label;  // drawn when it is printable ASCII (the font has no other letters)
};

// A copy of `image` with each box outlined in green (0, 255, 0). The line straddles the box's
// edge and is at least 2 px, wider on larger images. Deterministic, thread-safe.
image::RgbImage Annotate(const image::RgbImage& image, absl::Span<const AnnotatedBox> boxes);

}  // namespace chord::plot
