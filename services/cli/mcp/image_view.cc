#include "services/cli/mcp/image_view.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"
#include "common/image/preprocess.h"

namespace chord::cli::mcp {
namespace {

int Clamp(double value, int most) {
  return static_cast<int>(std::lround(std::clamp(value, 0.0, double(most))));
}

int Scaled(int side, double scale) {
  return std::max(1, static_cast<int>(std::lround(side * scale)));
}

}  // namespace

image::Box Expand(const image::Box& box, double margin, image::Size image) {
  const double x = margin * (double(box.x2) - box.x1), y = margin * (double(box.y2) - box.y1);
  return {Clamp(box.x1 - x, image.width), Clamp(box.y1 - y, image.height),
          Clamp(box.x2 + x, image.width), Clamp(box.y2 + y, image.height)};
}

image::Size Fit(image::Size size, int max_side, double max_enlarge) {
  const double scale = std::min(double(max_side) / std::max(size.width, size.height), max_enlarge);
  return {Scaled(size.width, scale), Scaled(size.height, scale)};
}

image::RgbImage Crop(const image::RgbImage& image, const image::Box& region) {
  image::RgbImage out{region.x2 - region.x1, region.y2 - region.y1, {}};
  out.rgb.reserve(size_t{3} * out.width * out.height);
  for (int y = region.y1; y < region.y2; ++y) {
    const auto row = image.rgb.begin() + 3 * (ptrdiff_t{y} * image.width);
    out.rgb.insert(out.rgb.end(), row + ptrdiff_t{3} * region.x1, row + ptrdiff_t{3} * region.x2);
  }
  return out;
}

absl::StatusOr<std::string> ToBase64Png(const image::RgbImage& image, image::Size size) {
  CHORD_ASSIGN_OR_RETURN(const std::vector<uint8_t> png,
                         image::EncodePng(image::Resize(image, size, image::ResizeMode::kTorch)));
  return absl::Base64Escape({reinterpret_cast<const char*>(png.data()), png.size()});
}

}  // namespace chord::cli::mcp
