// Which files of a model folder hold its weights.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace chord::model {

struct WeightFiles {
  std::vector<std::string> names;  // plain file names in the folder, sorted
  // Of an index: stored tensor name -> file; empty for a single file.
  std::map<std::string, std::string> map;
  std::optional<int64_t> total_size;  // as the index claims
  std::vector<std::string> warnings;
};

// model.safetensors, as transformers prefers it, else what model.safetensors.index.json names.
// CHECKPOINT_INVALID says what is there instead (pickle files, adapters, nothing).
absl::StatusOr<WeightFiles> FindWeightFiles(const std::string& dir);

}  // namespace chord::model
