#include <cstring>

#include "absl/status/status.h"
#include "common/image/preprocess.h"

namespace chord::image {
SampleTable NormalizedSamples(const Normalization& n, ResizeMode mode) {
  constexpr double kRescale = 0.00392156862745098;
  SampleTable table;
  for (int c = 0; c < 3; ++c) {
    const float mean = n.mean[c] * 255.0f;
    const float std = n.std[c] * 255.0f;
    for (int v = 0; v < 256; ++v) {
      table[c][v] = mode == ResizeMode::kTorch
                        ? (static_cast<float>(v) - mean) / std
                        : (static_cast<float>(v * kRescale) - n.mean[c]) / n.std[c];
    }
  }
  return table;
}

absl::Status Patchify(const RgbImage& image, const PatchGeometry& geometry,
                      const Normalization& normalization, ResizeMode mode, absl::Span<float> out) {
  const int patch = geometry.patch_size;
  const int merge = geometry.merge_size;
  const int temporal = geometry.temporal_patch_size;
  if (patch < 1 || merge < 1 || temporal < 1 || image.width < 1 || image.height < 1 ||
      image.width % geometry.factor() != 0 || image.height % geometry.factor() != 0 ||
      image.rgb.size() != size_t{3} * image.width * image.height ||
      out.size() != image.rgb.size() * temporal) {
    return absl::InternalError("Patchify: image, geometry and output do not fit together");
  }
  const SampleTable table = NormalizedSamples(normalization, mode);
  const size_t stride = size_t{3} * image.width;
  const size_t frame = size_t{1} * patch * patch;
  const int groups_down = image.height / geometry.factor();
  const int groups_across = image.width / geometry.factor();
  float* to = out.data();  // walks through `out` without a gap: that is the patch order
  for (int by = 0; by < groups_down; ++by) {
    for (int bx = 0; bx < groups_across; ++bx) {
      for (int cell = 0; cell < merge * merge; ++cell) {
        const int y = (by * merge + cell / merge) * patch;
        const int x = (bx * merge + cell % merge) * patch;
        const uint8_t* corner = image.rgb.data() + y * stride + size_t{3} * x;
        for (int c = 0; c < 3; ++c) {
          const float* values = table[c].data();
          float* const first = to;
          for (int py = 0; py < patch; ++py) {
            const uint8_t* from = corner + py * stride + c;
            for (int px = 0; px < patch; ++px) *to++ = values[from[3 * px]];
          }
          for (int t = 1; t < temporal; ++t, to += frame) {
            std::memcpy(to, first, frame * sizeof(float));
          }
        }
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace chord::image
