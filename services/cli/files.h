// Files that the subcommands read and write, and why they could not.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/atomic_file.h"

namespace chord::cli {

// The whole file. CONFIG_INVALID when it is no file, cannot be read or has more than `limit` bytes.
absl::StatusOr<std::string> ReadWhole(const std::string& path, int64_t limit);

// Whole or not at all, as common/base/atomic_file.h has it. CheckWritable is there too.
inline absl::Status WriteWhole(const std::string& path, absl::string_view bytes) {
  return WriteFileAtomically(path, {bytes});
}

}  // namespace chord::cli
