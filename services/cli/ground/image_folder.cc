#include "services/cli/ground/image_folder.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/image/image.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;

// The longest signature that Sniff needs (WebP).
constexpr size_t kSignatureBytes = 12;

bool HasImageName(const fs::path& path) {
  const std::string extension = absl::AsciiStrToLower(path.extension().string());
  return extension == ".jpg" || extension == ".jpeg" || extension == ".png" || extension == ".webp";
}

enum class Kind { kImage, kOther, kUnreadable };

Kind KindOf(const fs::directory_entry& entry) {
  std::error_code error;
  if (!entry.exists(error)) return Kind::kUnreadable;  // a dangling link
  std::ifstream file(entry.path(), std::ios::binary);
  char head[64] = {};
  file.read(head, sizeof(head));
  const auto size = static_cast<size_t>(file.gcount());
  if (!file.is_open() || file.bad()) return Kind::kUnreadable;
  if (image::Sniff(absl::string_view(head, size)).ok()) return Kind::kImage;
  // Too short to tell by its bytes: an empty file, or one that is named like an image.
  const bool meant_as_image = size == 0 || HasImageName(entry.path());
  return size < kSignatureBytes && meant_as_image ? Kind::kUnreadable : Kind::kOther;
}

}  // namespace

absl::StatusOr<ImageFolder> ListImages(const std::string& dir) {
  ImageFolder out;
  std::error_code error;
  fs::directory_iterator entries(dir, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    std::error_code ignored;
    const bool dangling = entries->is_symlink(ignored) && !entries->exists(ignored);
    if (!dangling && !entries->is_regular_file(ignored)) continue;  // sub-folders, sockets, pipes
    if (KindOf(*entries) == Kind::kOther) {
      ++out.skipped;
    } else {
      out.images.push_back(entries->path().string());
    }
  }
  if (error) {
    return errors::ConfigInvalid(
        absl::StrCat("The folder ", dir, " cannot be read: ", error.message(), "."));
  }
  std::sort(out.images.begin(), out.images.end());
  return out;
}

}  // namespace chord::cli
