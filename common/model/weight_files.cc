#include "common/model/weight_files.h"

#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/files.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/json/strict_json.h"
#include "common/model/model_folder.h"

namespace chord::model {
namespace {

constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr size_t kMaxShards = 4096;

absl::Status IndexError(absl::string_view why) {
  return errors::CheckpointInvalid(absl::StrCat(kIndex, ": ", why));
}

absl::StatusOr<WeightFiles> ReadIndex(absl::string_view text) {
  auto parsed = ParseStrictJson(text, {.depth = 8, .values = limits::kMaxTensors * 2});
  if (!parsed.ok()) return IndexError(parsed.status().message());
  const auto map = parsed->find("weight_map");
  if (map == parsed->end() || !map->is_object() || map->empty()) {
    return IndexError("weight_map must be an object with at least one tensor");
  }
  WeightFiles files;
  std::set<std::string> names;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string()) return IndexError("weight_map must map names to file names");
    const std::string& name = file.get_ref<const std::string&>();
    if (!IsPlainFileName(name)) {
      return IndexError(absl::StrCat("\"", Printable(name), "\" is not a plain file name"));
    }
    names.insert(name);
    if (names.size() > kMaxShards) {
      return IndexError(absl::StrCat("names more than ", kMaxShards, " files"));
    }
    files.map.emplace(tensor, name);
  }
  files.names.assign(names.begin(), names.end());
  const auto metadata = parsed->find("metadata");
  if (metadata != parsed->end() && metadata->is_object()) {
    const auto total = metadata->find("total_size");
    if (total != metadata->end() && total->is_number_unsigned()) {
      files.total_size = total->get<int64_t>();
    }
  }
  return files;
}

}  // namespace

absl::StatusOr<WeightFiles> FindWeightFiles(const std::string& dir) {
  CHORD_RETURN_IF_ERROR(CheckFolder(dir));
  if (FileExists(dir, kSingle)) {
    WeightFiles files;
    files.names.push_back(kSingle);
    if (FileExists(dir, kIndex)) {
      files.warnings.push_back(
          absl::StrCat("both ", kSingle, " and ", kIndex, " are there; the single file is read"));
    }
    return files;
  }
  CHORD_ASSIGN_OR_RETURN(const auto text, ReadOptionalFile(dir, kIndex, limits::kMaxConfigBytes));
  if (!text) return MissingWeights(dir);
  return ReadIndex(*text);
}

}  // namespace chord::model
