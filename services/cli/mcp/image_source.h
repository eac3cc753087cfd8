// The images that tool calls name: files of this machine, or base64.
#pragma once

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

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

  // The bytes of base64 text or of a data: URL with base64. Nothing is fetched from other URLs.
  static absl::StatusOr<std::string> DecodeText(absl::string_view text);

 private:
  explicit ImageSource(std::filesystem::path root) : root_(std::move(root)) {}

  std::filesystem::path root_;  // canonical, or empty
};

}  // namespace chord::cli::mcp
