#include "common/image/exif.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "common/image/codec.h"

namespace chord::image {
namespace {

constexpr uint32_t kOrientationTag = 0x0112;
constexpr size_t kEntryBytes = 12;
enum TiffType : uint32_t { kByte = 1, kShort = 3, kLong = 4 };

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
    if (u32(entry + 4) != 1) return 1;
    uint32_t value = 0;
    switch (u16(entry + 2)) {
      case kByte:
        value = static_cast<uint8_t>(tiff[entry + 8]);
        break;
      case kShort:
        value = u16(entry + 8);
        break;
      case kLong:
        value = u32(entry + 8);
        break;
      default:
        return 1;
    }
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

}  // namespace chord::image
