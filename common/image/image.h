// Bytes -> pixels. Formats are told by bytes; limits are applied to the header before pixels are
// decoded; every rule of the frame (EXIF once, alpha on white) lives here.
//
// All functions are pure and thread-safe. They take untrusted bytes and return INVALID_ARGUMENT
// with a reason of the catalogue for anything they do not accept.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/cancel.h"
#include "common/base/limits.h"

namespace chord::image {

enum class Format { kJpeg, kPng, kWebp };
absl::string_view FormatName(Format format);  // "JPEG", "PNG", "WebP"

// By magic bytes. GIF, TIFF, BMP, ICO, JP2, HEIC, AVIF, SVG, PDF are refused by name with what to
// convert to; empty and unknown bytes by their own reasons.
absl::StatusOr<Format> Sniff(absl::string_view bytes);

// What the header says. No pixel memory is taken to learn it.
struct Header {
  Format format = Format::kJpeg;
  int width = 0;        // px as stored, > 0
  int height = 0;       // px as stored, > 0
  int orientation = 1;  // EXIF 1..8; a missing or bad value is 1
  int upright_width() const { return orientation >= 5 ? height : width; }
  int upright_height() const { return orientation >= 5 ? width : height; }
};

struct Limits {
  int64_t max_bytes = limits::kDefaultImageBytes;
  int64_t max_pixels = limits::kDefaultImagePixels;
  int64_t max_metadata_bytes = limits::kDefaultImageMetadataBytes;
  int max_aspect_ratio = limits::kMaxAspectRatio;
  // A service's: none of these reaches over its ceiling in common/base/limits.h.
  bool ceilings = true;
  // For tools that study the model on local files: what the formats and the model's rule allow,
  // up to 2^30 px (3 GiB of pixels).
  static Limits ForTools();
};

// Sniffs, reads the header, refuses by `limits`, animations and codings we do not take.
absl::StatusOr<Header> Probe(absl::string_view bytes, const Limits& limits);

// Interleaved RGB, rows top to bottom without padding: pixel (x, y) at 3·(y·width + x).
struct RgbImage {
  int width = 0;
  int height = 0;
  std::vector<uint8_t> rgb;
};

struct DecodeOptions {
  Limits limits = {};
  bool apply_exif = true;      // false: keep the stored frame (for comparisons with other stacks)
  bool alpha_on_white = true;  // false: alpha is dropped
};

// Probe + decode + upright + alpha on white. The result is in the upright frame.
// A file that is cut anywhere is refused, never half grey. `cancel` is looked at per row band.
absl::StatusOr<RgbImage> Decode(absl::string_view bytes, const DecodeOptions& options,
                                const CancelToken& cancel = {});

// For annotated images. Deterministic.
absl::StatusOr<std::vector<uint8_t>> EncodePng(const RgbImage& image);
// Baseline JPEG of quality 92. INVALID_ARGUMENT for sides over 65,500 pixels.
absl::StatusOr<std::vector<uint8_t>> EncodeJpeg(const RgbImage& image);

}  // namespace chord::image
