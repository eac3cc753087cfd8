#include "services/cli/mcp/image_source.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "services/cli/files.h"

namespace chord::cli::mcp {
namespace {

namespace fs = std::filesystem;

bool IsBelow(const fs::path& path, const fs::path& root) {
  return std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first == root.end();
}

}  // namespace

absl::StatusOr<ImageSource> ImageSource::Create(const std::string& root) {
  if (root.empty()) return ImageSource(fs::path());
  std::error_code error;
  const fs::path real = fs::canonical(root, error);
  if (error || !fs::is_directory(real, error)) {
    return errors::ConfigInvalid(absl::StrCat("--root ", root, " is not a folder."));
  }
  return ImageSource(real);
}

absl::StatusOr<std::string> ImageSource::ReadFile(const std::string& path) const {
  // A NUL would cut the name for the system, after it was compared with the root.
  if (path.empty() || path.find('\0') != std::string::npos) {
    return errors::ParameterInvalid("path", "the path of an image file");
  }
  std::error_code error;
  const fs::path real = fs::weakly_canonical(root_ / fs::path(path), error);
  if (!root_.empty() && (error || !IsBelow(real, root_))) {
    return errors::ParameterInvalid("path", "a file inside the folder that this server may read");
  }
  return ReadWhole(error ? path : real.string(), limits::kCeilingImageBytes);
}

}  // namespace chord::cli::mcp
