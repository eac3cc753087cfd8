// Files written whole or not at all.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace chord {

// Makes the pieces, one after the other, the content of `path`: written beside its place and
// renamed over it, so a reader sees the old file or the new one. A link is followed, the file that
// it names is replaced. What is no ordinary file (a device, a pipe) is written to as it is.
// FILE_NOT_WRITTEN has the system's reason; nothing is left behind then.
absl::Status WriteFileAtomically(const std::string& path,
                                 absl::Span<const absl::string_view> pieces);

// Whether WriteFileAtomically could begin, asked before the work whose result it is. Leaves nothing
// behind.
absl::Status CheckWritable(const std::string& path);

}  // namespace chord
