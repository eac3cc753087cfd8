// Pixels -> patches, bit for bit as transformers does it (spec §2.4–2.7).
#pragma once

#include <array>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/image/frame_plan.h"

namespace chord::image {

enum class ResizeMode {
  kTorch,  // mode T: int16 weights of torch's uint8 antialiased bicubic; the default
  // mode P: 22-bit weights of Pillow's, and its order of passes from 12.2 on: down first when a
  // image over 100 times as tall as wide becomes lower. (13.0 chooses by a rule of its own.)
  kPillow,
};

// Antialiased bicubic to `size`, uint8 between the two passes (across, then down). Returns the
// image unchanged when the size is its own. size: both sides >= 1.
RgbImage Resize(const RgbImage& image, Size size, ResizeMode mode);

struct Normalization {
  std::array<float, 3> mean = {0.48145466f, 0.4578275f, 0.40821073f};
  std::array<float, 3> std = {0.26862954f, 0.26130258f, 0.27577711f};
};

// Normalised value of every sample of every channel, in the float order of each mode (spec §2.6).
using SampleTable = std::array<std::array<float, 256>, 3>;
SampleTable NormalizedSamples(const Normalization& normalization, ResizeMode mode);

// `image` (sides multiples of patch·merge) -> out[patches, 3·temporal·patch·patch] float32 row
// major, in merge-group order (spec §2.7). `out` has exactly that size.
absl::Status Patchify(const RgbImage& image, const PatchGeometry& geometry,
                      const Normalization& normalization, ResizeMode mode, absl::Span<float> out);

}  // namespace chord::image
