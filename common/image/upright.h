// EXIF orientation, applied to pixels.
#pragma once

#include "common/image/image.h"

namespace chord::image {

// Turns and mirrors `stored` so that it stands upright. orientation: EXIF 1..8. 1 costs nothing,
// 2–4 work in place, 5–8 (sides swapped) take a second image while they run.
RgbImage Upright(RgbImage stored, int orientation);

}  // namespace chord::image
