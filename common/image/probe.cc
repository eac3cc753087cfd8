#include <algorithm>

#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/image/codec.h"
#include "common/image/image.h"

namespace chord::image {

Limits Limits::ForTools() {
  return {.max_bytes = int64_t{4} << 30, .max_pixels = int64_t{1} << 30, .ceilings = false};
}

namespace internal {

absl::Status CheckSize(int64_t width, int64_t height, const Limits& limits) {
  if (width <= 0 || height <= 0) return errors::ImageZeroSide();
  const int64_t max_pixels = limits.ceilings
                                 ? std::min(limits.max_pixels, limits::kCeilingImagePixels)
                                 : limits.max_pixels;
  const int64_t max_side = limits.ceilings ? limits::kMaxImageSide : max_pixels;
  // Sides are 32-bit numbers of a file: as unsigned ones their product fits.
  if (std::max(width, height) > max_side ||
      static_cast<uint64_t>(width) * static_cast<uint64_t>(height) >
          static_cast<uint64_t>(max_pixels)) {
    return errors::ImagePixelLimit(width, height, max_pixels);
  }
  if (std::max(width, height) > std::min(width, height) * int64_t{limits.max_aspect_ratio}) {
    return errors::ImageAspectRatio(width, height);
  }
  return absl::OkStatus();
}

absl::Status CheckMetadata(int64_t bytes, const Limits& limits) {
  if (!limits.ceilings) return absl::OkStatus();
  const int64_t limit = std::min(limits.max_metadata_bytes, limits::kCeilingImageMetadataBytes);
  return bytes > limit ? errors::ImageMetadataLimit(limit) : absl::OkStatus();
}

}  // namespace internal

absl::StatusOr<Header> Probe(absl::string_view bytes, const Limits& limits) {
  const int64_t max_bytes =
      limits.ceilings ? std::min(limits.max_bytes, limits::kCeilingImageBytes) : limits.max_bytes;
  if (static_cast<int64_t>(bytes.size()) > max_bytes) {
    return errors::ImageBytesLimit(static_cast<int64_t>(bytes.size()), max_bytes);
  }
  CHORD_ASSIGN_OR_RETURN(const Format format, Sniff(bytes));
  switch (format) {
    case Format::kJpeg:
      return internal::ProbeJpeg(bytes, limits);
    case Format::kPng:
      return internal::ProbePng(bytes, limits);
    case Format::kWebp:
      return internal::ProbeWebp(bytes, limits);
  }
  return errors::ImageFormatUnknown();
}

}  // namespace chord::image
