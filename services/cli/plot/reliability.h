// The reliability curve of confidences, drawn for people.
#pragma once

#include <cstdint>
#include <string>

#include "absl/types/span.h"
#include "common/image/image.h"

namespace chord::plot {

struct ReliabilityBin {
  int64_t count = 0;      // bins without samples are not drawn
  double confidence = 0;  // mean, 0 - 1
  double right = 0;       // share that was right, 0 - 1
};

// 480 x 480 px: share right over mean confidence with the diagonal, and the share of samples of
// each bin as bars at the bottom. `title` in printable ASCII. Bins are of equal width from 0 to 1.
// Values that are no numbers are drawn as 0. Deterministic, thread-safe.
image::RgbImage DrawReliability(absl::Span<const ReliabilityBin> bins, const std::string& title);

}  // namespace chord::plot
