// What probe.cc and decode.cc need of one file format. Internal to common/image.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/image/image.h"

namespace chord::image::internal {

// The one place where a claimed size is compared with the limits; a codec calls it as soon as it
// has read the sides and before it looks at anything else.
absl::Status CheckSize(int64_t width, int64_t height, const Limits& limits);
// `bytes`: what was read so far that is not pixels.
absl::Status CheckMetadata(int64_t bytes, const Limits& limits);

// Big- and little-endian reads; the caller has checked that the bytes are there.
inline uint32_t Be16(const char* p) {
  const auto* u = reinterpret_cast<const uint8_t*>(p);
  return uint32_t{u[0]} << 8 | u[1];
}
inline uint32_t Be32(const char* p) { return Be16(p) << 16 | Be16(p + 2); }
inline uint32_t Le16(const char* p) {
  const auto* u = reinterpret_cast<const uint8_t*>(p);
  return uint32_t{u[1]} << 8 | u[0];
}
inline uint32_t Le32(const char* p) { return Le16(p + 2) << 16 | Le16(p); }

// Header only; `bytes` begins with the format's magic.
absl::StatusOr<Header> ProbeJpeg(absl::string_view bytes, const Limits& limits);
absl::StatusOr<Header> ProbePng(absl::string_view bytes, const Limits& limits);
absl::StatusOr<Header> ProbeWebp(absl::string_view bytes, const Limits& limits);

// Pixels in the stored frame. `header` is what the probe of the same bytes returned. Peak memory
// per pixel, the result's 3 bytes included:
//   JPEG  3 B sequential; up to 3 + 2·channels (CMYK: 11 B) progressive
//   PNG   3 B plus two rows, whatever the depth, colour type or interlacing
//   WebP  3 B lossy; 7 B lossless; up to 9 B with alpha
// JPEG has no alpha; PNG and WebP compose it on white or drop it.
absl::StatusOr<RgbImage> DecodeJpeg(absl::string_view bytes, const Header& header,
                                    const CancelToken& cancel);
absl::StatusOr<RgbImage> DecodePng(absl::string_view bytes, const Header& header,
                                   bool alpha_on_white, const CancelToken& cancel);
absl::StatusOr<RgbImage> DecodeWebp(absl::string_view bytes, const Header& header,
                                    bool alpha_on_white, const CancelToken& cancel);

// How often a decoder looks at the cancel token, in rows.
inline constexpr int kRowsPerCancelCheck = 64;

// Channel `c` with alpha `a` over white, rounded as Pillow's blend (spec §2.2).
inline uint8_t OnWhite(uint32_t c, uint32_t a) {
  const uint32_t t = 255 * (255 - a) + c * a + 128;
  return static_cast<uint8_t>(((t >> 8) + t) >> 8);
}

}  // namespace chord::image::internal
