#include "common/image/upright.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace chord::image {
namespace {

struct Pixel {
  uint8_t rgb[3];
};
static_assert(sizeof(Pixel) == 3 && alignof(Pixel) == 1);

void FlipLeftRight(RgbImage& image) {
  auto* pixels = reinterpret_cast<Pixel*>(image.rgb.data());
  for (int y = 0; y < image.height; ++y, pixels += image.width) {
    std::reverse(pixels, pixels + image.width);
  }
}

void FlipTopBottom(RgbImage& image) {
  const size_t row = size_t{3} * image.width;
  uint8_t* data = image.rgb.data();
  for (int y = 0; y < image.height / 2; ++y) {
    uint8_t* top = data + y * row;
    std::swap_ranges(top, top + row, data + (image.height - 1 - y) * row);
  }
}

// Orientations 5–8 swap the sides: a stored column becomes an upright row. In tiles, since one of
// the two images is walked against its rows.
RgbImage Turn(const RgbImage& stored, bool columns_from_right, bool rows_from_bottom) {
  constexpr int kTile = 32;
  RgbImage out{stored.height, stored.width, {}};
  out.rgb.resize(stored.rgb.size());
  const auto* in = reinterpret_cast<const Pixel*>(stored.rgb.data());
  auto* to = reinterpret_cast<Pixel*>(out.rgb.data());
  for (int y0 = 0; y0 < out.height; y0 += kTile) {
    const int y1 = std::min(y0 + kTile, out.height);
    for (int x0 = 0; x0 < out.width; x0 += kTile) {
      const int x1 = std::min(x0 + kTile, out.width);
      for (int y = y0; y < y1; ++y) {
        const int column = columns_from_right ? stored.width - 1 - y : y;
        for (int x = x0; x < x1; ++x) {
          const int row = rows_from_bottom ? stored.height - 1 - x : x;
          to[size_t{1} * y * out.width + x] = in[size_t{1} * row * stored.width + column];
        }
      }
    }
  }
  return out;
}

}  // namespace

RgbImage Upright(RgbImage stored, int orientation) {
  switch (orientation) {
    case 2:
      FlipLeftRight(stored);
      break;
    case 3:
      FlipLeftRight(stored);
      FlipTopBottom(stored);
      break;
    case 4:
      FlipTopBottom(stored);
      break;
    case 5:
      return Turn(stored, /*columns_from_right=*/false, /*rows_from_bottom=*/false);
    case 6:
      return Turn(stored, /*columns_from_right=*/false, /*rows_from_bottom=*/true);
    case 7:
      return Turn(stored, /*columns_from_right=*/true, /*rows_from_bottom=*/true);
    case 8:
      return Turn(stored, /*columns_from_right=*/true, /*rows_from_bottom=*/false);
    default:
      break;
  }
  return stored;
}

}  // namespace chord::image
