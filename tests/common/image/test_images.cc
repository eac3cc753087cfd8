#include "tests/common/image/test_images.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
// jpeglib.h needs size_t and FILE from above.
#include <jpeglib.h>
#include <webp/encode.h>
#include <zlib.h>

#include "absl/strings/str_cat.h"
#include "common/image/image.h"

namespace chord::image::testing {

std::string Be16(uint32_t v) { return {static_cast<char>(v >> 8), static_cast<char>(v)}; }
std::string Be32(uint32_t v) { return Be16(v >> 16) + Be16(v & 0xffff); }
std::string Le32(uint32_t v) {
  return {static_cast<char>(v), static_cast<char>(v >> 8), static_cast<char>(v >> 16),
          static_cast<char>(v >> 24)};
}

RgbImage Noise(int width, int height) {
  std::mt19937 random(7);
  RgbImage image{width, height, {}};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < 3; ++c) {
        const double wave = 128 + 60 * std::sin(x / (7.0 + c)) + 40 * std::cos(y / (11.0 - c));
        image.rgb.push_back(static_cast<uint8_t>(wave + random() % 27));
      }
    }
  }
  return image;
}

namespace {

std::string Compress(jpeg_compress_struct& info, int width, int height, int channels,
                     const uint8_t* data, const JpegOptions& options) {
  jpeg_error_mgr errors;
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* out = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &out, &size);
  info.image_width = width;
  info.image_height = height;
  info.input_components = channels;
  info.in_color_space = channels == 4 ? JCS_CMYK : JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, options.quality, TRUE);
  if (options.gray) jpeg_set_colorspace(&info, JCS_GRAYSCALE);
  if (options.progressive) jpeg_simple_progression(&info);
  info.arith_code = options.arithmetic ? TRUE : FALSE;
  jpeg_start_compress(&info, TRUE);
  if (!options.app1.empty()) {
    jpeg_write_marker(&info, JPEG_APP0 + 1, reinterpret_cast<const uint8_t*>(options.app1.data()),
                      options.app1.size());
  }
  for (int y = 0; y < height; ++y) {
    auto* row = const_cast<uint8_t*>(data) + size_t{1} * y * width * channels;
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  std::string bytes(reinterpret_cast<char*>(out), size);
  std::free(out);
  return bytes;
}

}  // namespace

std::string Jpeg(const RgbImage& image, const JpegOptions& options) {
  jpeg_compress_struct info{};
  if (!options.cmyk) {
    return Compress(info, image.width, image.height, 3, image.rgb.data(), options);
  }
  std::vector<uint8_t> inks;
  for (size_t i = 0; i < image.rgb.size(); i += 3) {
    inks.insert(inks.end(), {image.rgb[i], image.rgb[i + 1], image.rgb[i + 2], 230});
  }
  return Compress(info, image.width, image.height, 4, inks.data(), options);
}

std::string CmykJpeg(int width, int height, const std::vector<uint8_t>& inks) {
  std::vector<uint8_t> data;
  for (int i = 0; i < width * height; ++i) data.insert(data.end(), inks.begin(), inks.end());
  jpeg_compress_struct info{};
  return Compress(info, width, height, 4, data.data(), {.quality = 100});
}

std::string RiffChunk(absl::string_view type, absl::string_view body) {
  return absl::StrCat(type, Le32(body.size()), body, body.size() % 2 ? std::string(1, '\0') : "");
}
std::string Riff(absl::string_view chunks) {
  return absl::StrCat("RIFF", Le32(chunks.size() + 4), "WEBP", chunks);
}

std::string Webp(const RgbImage& image, const WebpOptions& options) {
  std::vector<uint8_t> rgba;
  for (size_t i = 0; i < image.rgb.size(); i += 3) {
    rgba.insert(rgba.end(), {image.rgb[i], image.rgb[i + 1], image.rgb[i + 2],
                             static_cast<uint8_t>(options.alpha)});
  }
  uint8_t* out = nullptr;
  const int stride = image.width * 4;
  const size_t size =
      options.lossless
          ? WebPEncodeLosslessRGBA(rgba.data(), image.width, image.height, stride, &out)
          : WebPEncodeRGBA(rgba.data(), image.width, image.height, stride, 90, &out);
  std::string bytes(reinterpret_cast<char*>(out), size);
  WebPFree(out);
  return bytes;
}

std::string WebpWithExif(const std::string& webp, int width, int height, absl::string_view tiff) {
  const std::string vp8x =
      absl::StrCat(Le32(0x08), Le32(width - 1).substr(0, 3), Le32(height - 1).substr(0, 3));
  return Riff(absl::StrCat(RiffChunk("VP8X", vp8x), webp.substr(12), RiffChunk("EXIF", tiff)));
}

std::string PngChunk(absl::string_view type, absl::string_view body) {
  const std::string checked = absl::StrCat(type, body);
  const auto crc = crc32(0, reinterpret_cast<const Bytef*>(checked.data()), checked.size());
  return absl::StrCat(Be32(body.size()), checked, Be32(crc));
}

std::string PngHeader(uint32_t width, uint32_t height, int depth, int colour_type,
                      bool interlaced) {
  return "\x89PNG\r\n\x1a\n" +
         PngChunk("IHDR",
                  absl::StrCat(Be32(width), Be32(height),
                               std::string{static_cast<char>(depth), static_cast<char>(colour_type),
                                           0, 0, static_cast<char>(interlaced)}));
}

std::string Png(const PngParts& parts) {
  uLongf size = compressBound(parts.rows.size());
  std::string packed(size, '\0');
  compress(reinterpret_cast<Bytef*>(packed.data()), &size,
           reinterpret_cast<const Bytef*>(parts.rows.data()), parts.rows.size());
  packed.resize(size);
  return absl::StrCat(
      PngHeader(parts.width, parts.height, parts.depth, parts.colour_type, parts.interlaced),
      parts.before, PngChunk("IDAT", packed), PngChunk("IEND", ""));
}

std::string Png(const RgbImage& image, absl::string_view chunks_before_pixels) {
  PngParts parts;
  parts.width = image.width;
  parts.height = image.height;
  parts.before = std::string(chunks_before_pixels);
  const size_t stride = size_t{3} * image.width;
  for (int y = 0; y < image.height; ++y) {
    parts.rows += '\0';
    parts.rows.append(reinterpret_cast<const char*>(image.rgb.data()) + y * stride, stride);
  }
  return Png(parts);
}

std::string Tiff(int orientation, bool little) {
  const auto u16 = [&](uint32_t v) { return little ? Le32(v).substr(0, 2) : Be16(v); };
  const auto u32 = [&](uint32_t v) { return little ? Le32(v) : Be32(v); };
  return absl::StrCat(little ? "II" : "MM", u16(42), u32(8), u16(1), u16(0x0112), u16(3), u32(1),
                      u16(orientation), u16(0), u32(0));
}

std::string ExifSegment(int orientation) { return std::string("Exif\0\0", 6) + Tiff(orientation); }

}  // namespace chord::image::testing
