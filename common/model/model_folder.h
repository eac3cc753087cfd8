// From the path that an operator gives to the folder that holds the model's files.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace chord::model {

// `path` itself, or, where it is a folder of the Hugging Face cache ("models--ORG--NAME") with one
// snapshot, that snapshot. CHECKPOINT_INVALID says in a sentence what is there instead of a model
// and what to do: a file, an adapter, GGUF files, a cache with no or several snapshots, nothing.
// A folder that cannot be told is returned as it is; the reader of a file in it says what is
// missing.
absl::StatusOr<std::string> ResolveModelFolder(const std::string& path);

// The refusal for a folder without weights that are read: names what it has instead.
absl::Status MissingWeights(const std::string& dir);

}  // namespace chord::model
