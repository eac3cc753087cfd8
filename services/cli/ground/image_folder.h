// The images of a folder.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace chord::cli {

struct ImageFolder {
  // Paths, sorted. Files are recognised by their bytes; what cannot be read as a file (a dangling
  // link, no permission, an empty file, one too short to tell) is listed too, so that it is counted
  // and reported instead of being skipped.
  std::vector<std::string> images;
  size_t skipped = 0;  // files of other kinds
};

// CONFIG_INVALID when the folder cannot be read. Sub-folders are not entered.
absl::StatusOr<ImageFolder> ListImages(const std::string& dir);

}  // namespace chord::cli
