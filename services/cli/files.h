// Files that the subcommands read and write, and why they could not.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord::cli {

// The whole file. CONFIG_INVALID when it is no file, cannot be read or has more than `limit` bytes.
absl::StatusOr<std::string> ReadWhole(const std::string& path, int64_t limit);

// Whole or not at all: written beside its place and renamed; what is no ordinary file (/dev/stdout)
// is written as it is. FILE_NOT_WRITTEN has the system's reason.
absl::Status WriteWhole(const std::string& path, absl::string_view bytes);

// Whether WriteWhole could begin, asked before the work whose result it is. Leaves nothing behind.
absl::Status CheckWritable(const std::string& path);

}  // namespace chord::cli
