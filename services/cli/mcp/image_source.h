// The image files of this machine that tool calls name.
#pragma once

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"

namespace chord::cli::mcp {

// Thread-safe.
class ImageSource {
 public:
  // `root`: the only folder, with what lies below it, that files are read from; empty: files of the
  // whole machine, as the user may read them. CONFIG_INVALID when it is not a folder.
  static absl::StatusOr<ImageSource> Create(const std::string& root);

  // The bytes of a file. A relative path is taken from the root, or from the working directory
  // without one. Symbolic links are followed before the path is compared with the root; a path
  // outside is refused alike whether or not it exists.
  absl::StatusOr<std::string> ReadFile(const std::string& path) const;

 private:
  explicit ImageSource(std::filesystem::path root) : root_(std::move(root)) {}

  std::filesystem::path root_;  // canonical, or empty
};

}  // namespace chord::cli::mcp
