// RgbImage files made in code, sound and hostile, for the tests of chord::image.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/image/image.h"

namespace chord::image::testing {

std::string Be16(uint32_t v);
std::string Be32(uint32_t v);
std::string Le32(uint32_t v);

// Smooth colours with noise from a fixed generator; the same for the same sides.
RgbImage Noise(int width, int height);

struct JpegOptions {
  int quality = 90;
  bool progressive = false;
  bool gray = false;
  bool cmyk = false;  // four channels with Adobe's marker; ink bytes are written as they are
  bool arithmetic = false;
  std::string app1 = {};  // put behind the JFIF marker
};
std::string Jpeg(const RgbImage& image, const JpegOptions& options = {});
// One colour, as four stored ink bytes.
std::string CmykJpeg(int width, int height, const std::vector<uint8_t>& inks);

struct WebpOptions {
  bool lossless = false;
  int alpha = 255;  // of every pixel
};
std::string Webp(const RgbImage& image, const WebpOptions& options = {});
// `webp` in the extended container with an EXIF chunk.
std::string WebpWithExif(const std::string& webp, int width, int height, absl::string_view tiff);
std::string RiffChunk(absl::string_view type, absl::string_view body);
std::string Riff(absl::string_view chunks);

std::string PngChunk(absl::string_view type, absl::string_view body);
std::string PngHeader(uint32_t width, uint32_t height, int depth, int colour_type,
                      bool interlaced = false);
struct PngParts {
  uint32_t width = 1;
  uint32_t height = 1;
  int depth = 8;
  int colour_type = 2;
  bool interlaced = false;
  std::string rows = {};    // filter byte and packed samples of each row
  std::string before = {};  // chunks between IHDR and IDAT
};
std::string Png(const PngParts& parts);
std::string Png(const RgbImage& image, absl::string_view chunks_before_pixels = "");

// A TIFF block that says nothing but the orientation.
std::string Tiff(int orientation, bool little_endian = true);
std::string ExifSegment(int orientation);  // Tiff with the prefix JPEG wants

}  // namespace chord::image::testing
