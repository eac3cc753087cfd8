#include "common/image/exif.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "common/image/codec.h"

namespace chord::image {
namespace {

constexpr uint32_t kOrientationTag = 0x0112;
constexpr size_t kEntryBytes = 12;
// The integers of TIFF. The standard wants a short; others are understood where Pillow does, which
// takes a byte for text.
enum TiffType : uint32_t {
  kShort = 3,
  kLong = 4,
  kSignedByte = 6,
  kSignedShort = 8,
  kSignedLong = 9,
  kDirectory = 13,
};

size_t SizeOf(uint32_t type) {
  switch (type) {
    case kSignedByte:
      return 1;
    case kShort:
    case kSignedShort:
      return 2;
    case kLong:
    case kSignedLong:
    case kDirectory:
      return 4;
    default:
      return 0;
  }
}

}  // namespace

int ExifOrientation(absl::string_view tiff) {
  constexpr absl::string_view kPrefix("Exif\0\0", 6);
  if (absl::StartsWith(tiff, kPrefix)) tiff.remove_prefix(kPrefix.size());
  if (tiff.size() < 8) return 1;
  const bool little = absl::StartsWith(tiff, "II");
  if (!little && !absl::StartsWith(tiff, "MM")) return 1;
  const auto u16 = [&](size_t at) {
    return little ? internal::Le16(&tiff[at]) : internal::Be16(&tiff[at]);
  };
  const auto u32 = [&](size_t at) {
    return little ? internal::Le32(&tiff[at]) : internal::Be32(&tiff[at]);
  };
  if (u16(2) != 42) return 1;
  const size_t directory = u32(4);
  if (directory > tiff.size() - 2) return 1;
  const size_t room = (tiff.size() - directory - 2) / kEntryBytes;
  const size_t entries = std::min<size_t>(u16(directory), room);
  for (size_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + i * kEntryBytes;
    if (u16(entry) != kOrientationTag) continue;
    const size_t size = SizeOf(u16(entry + 2));
    const size_t count = u32(entry + 4);  // the first one counts
    if (size == 0 || count == 0) return 1;
    const size_t at = size * count <= 4 ? entry + 8 : u32(entry + 8);
    if (at > tiff.size() - size) return 1;
    const uint32_t value = size == 1   ? static_cast<uint8_t>(tiff[at])
                           : size == 2 ? u16(at)
                                       : u32(at);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

}  // namespace chord::image
