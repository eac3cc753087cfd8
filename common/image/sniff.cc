#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "common/base/errors.h"
#include "common/image/codec.h"
#include "common/image/image.h"

namespace chord::image {
namespace {

struct Magic {
  absl::string_view bytes;
  absl::string_view name;
};

constexpr absl::string_view kPngMagic("\x89PNG\r\n\x1a\n", 8);

// Formats that people really send, so the refusal can name them.
constexpr Magic kRefused[] = {
    {{"GIF87a", 6}, "GIF"},
    {{"GIF89a", 6}, "GIF"},
    {{"II\x2a\0", 4}, "TIFF"},
    {{"MM\0\x2a", 4}, "TIFF"},
    {{"II\x2b\0", 4}, "TIFF"},
    {{"MM\0\x2b", 4}, "TIFF"},
    {{"\0\0\0\x0cjP  \r\n\x87\n", 12}, "JPEG 2000"},
    {{"\xff\x4f\xff\x51", 4}, "JPEG 2000"},
    {{"\0\0\0\x0cJXL \r\n\x87\n", 12}, "JPEG XL"},
    {{"\xff\x0a", 2}, "JPEG XL"},
    {{"%PDF-", 5}, "PDF"},
    {{"8BPS", 4}, "PSD"},
    {{"\0\0\1\0", 4}, "ICO"},
    {{"\0\0\2\0", 4}, "CUR"},
};

// "BM" alone is two letters of text; the next fields of a BMP are its size and four zero bytes.
bool IsBmp(absl::string_view b) {
  return b.size() >= 14 && absl::StartsWith(b, "BM") && internal::Le32(&b[6]) == 0;
}

// ISO base media: a box "ftyp" with a major brand and a list of compatible ones.
absl::string_view IsoBrand(absl::string_view b) {
  if (b.size() < 12 || b.substr(4, 4) != "ftyp") return "";
  const size_t end = std::min<size_t>({b.size(), internal::Be32(b.data()), 256});
  bool heic = false;
  for (size_t at = 8; at + 4 <= end; at += 4) {
    const absl::string_view brand = b.substr(at, 4);
    if (brand == "avif" || brand == "avis") return "AVIF";
    heic |= brand == "heic" || brand == "heix" || brand == "hevc" || brand == "hevx" ||
            brand == "heim" || brand == "heis" || brand == "mif1" || brand == "msf1";
  }
  return heic ? "HEIC" : "";
}

bool IsSvg(absl::string_view b) {
  b = b.substr(0, 4096);
  if (absl::StartsWith(b, "\xef\xbb\xbf")) b.remove_prefix(3);
  b = absl::StripLeadingAsciiWhitespace(b);
  return absl::StartsWith(b, "<") && absl::StrContains(b, "<svg") && !absl::StrContains(b, "<html");
}

}  // namespace

absl::string_view FormatName(Format format) {
  switch (format) {
    case Format::kJpeg:
      return "JPEG";
    case Format::kPng:
      return "PNG";
    case Format::kWebp:
      return "WebP";
  }
  return "";
}

absl::StatusOr<Format> Sniff(absl::string_view bytes) {
  if (bytes.empty()) return errors::ImageEmpty();
  if (absl::StartsWith(bytes, "\xff\xd8\xff")) return Format::kJpeg;
  if (absl::StartsWith(bytes, kPngMagic)) return Format::kPng;
  if (absl::StartsWith(bytes, "RIFF") && bytes.size() >= 12 && bytes.substr(8, 4) == "WEBP") {
    return Format::kWebp;
  }
  for (const Magic& magic : kRefused) {
    if (absl::StartsWith(bytes, magic.bytes)) return errors::ImageFormatUnsupported(magic.name);
  }
  if (IsBmp(bytes)) return errors::ImageFormatUnsupported("BMP");
  if (const absl::string_view brand = IsoBrand(bytes); !brand.empty()) {
    return errors::ImageFormatUnsupported(brand);
  }
  if (IsSvg(bytes)) return errors::ImageFormatUnsupported("SVG");
  return errors::ImageFormatUnknown();
}

}  // namespace chord::image
