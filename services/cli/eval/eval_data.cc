#include "services/cli/eval/eval_data.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "services/cli/eval/coco_data.h"
#include "services/cli/eval/eval_json.h"
#include "services/cli/files.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;
using eval_json::Bad;
using eval_json::Find;
using eval_json::Json;
using eval_json::Parse;

constexpr int64_t kMaxFileBytes = int64_t{512} << 20;

absl::StatusOr<std::vector<EvalItem>> Scenes(const Json& rows) {
  std::vector<EvalItem> out;
  for (const Json& row : rows) {
    const std::string where = absl::StrCat("scene ", out.size());
    EvalItem item;
    CHORD_ASSIGN_OR_RETURN(item.file, eval_json::FileName(Find(row, {"file"}), where));
    CHORD_ASSIGN_OR_RETURN(item.prompt, eval_json::Prompt(Find(row, {"prompt"}), where));
    const Json* boxes = Find(row, {"boxes"});
    if (boxes == nullptr) return Bad(absl::StrCat(where, " lacks \"boxes\""));
    CHORD_ASSIGN_OR_RETURN(item.truth, eval_json::Boxes(*boxes, true, where));
    item.group =
        eval_json::TextOr(Find(row, {"hard", "kind"}), eval_json::CountGroup(item.truth.size()));
    out.push_back(std::move(item));
  }
  return out;
}

}  // namespace

absl::StatusOr<std::vector<EvalItem>> ParseEvalData(absl::string_view text,
                                                    absl::string_view instances,
                                                    const EvalOptions& options) {
  CHORD_ASSIGN_OR_RETURN(const Json json, Parse(text));
  absl::StatusOr<std::vector<EvalItem>> out = Bad("neither scenes nor COCO nor RefCOCO");
  const Json* refs = json.is_array() ? &json : Find(json, {"refs"});
  const bool list_of_refs = refs != nullptr && refs->is_array() && !refs->empty() &&
                            Find(refs->front(), {"sentences"}) != nullptr;
  if (json.is_array() && !list_of_refs) {
    out = Scenes(json);
  } else if (list_of_refs) {
    coco::Instances known;
    if (json.is_object() && json.contains("annotations")) {
      CHORD_ASSIGN_OR_RETURN(known, coco::ReadInstances(json));
    } else if (!instances.empty()) {
      CHORD_ASSIGN_OR_RETURN(const Json other, Parse(instances));
      CHORD_ASSIGN_OR_RETURN(known, coco::ReadInstances(other));
    }
    out = coco::Refs(*refs, known, options);
  } else if (json.is_object()) {
    CHORD_ASSIGN_OR_RETURN(const coco::Instances known, coco::ReadInstances(json));
    const Json* prompts = Find(json, {"questions"});
    if (prompts != nullptr && !prompts->is_array()) return Bad("\"questions\" must be a list");
    out = prompts != nullptr        ? coco::Prompts(*prompts, known)
          : !known.captions.empty() ? coco::Captions(known)
                                    : coco::Categories(json, known, options);
  }
  if (out.ok() && out->empty()) return Bad("there is no prompt in it");
  return out;
}

absl::Status RefusePickle(const std::string& path, absl::string_view bytes) {
  const std::string extension = fs::path(path).extension().string();
  bool pickle = extension == ".p" || extension == ".pkl" || extension == ".pickle";
  // Protocol 2 and later, and 0 of a list and of a dictionary.
  for (const absl::string_view begin : {"\x80", "(lp", "(dp"}) {
    pickle = pickle || absl::StartsWith(bytes, begin);
  }
  if (!pickle) return absl::OkStatus();
  return errors::ConfigInvalid(absl::StrCat(
      path,
      " is a Python pickle, which runs code when it is loaded, so Chord does not. Where you trust "
      "it, make JSON of it: python3 -c 'import json, pickle, sys; json.dump(pickle.load(open("
      "sys.argv[1], \"rb\")), open(\"refs.json\", \"w\"))' 'refs(unc).p'"));
}

absl::StatusOr<std::string> ImageFolder(const std::string& data_file, const std::string& images,
                                        absl::Span<const std::string> files) {
  fs::path folder = images.empty() ? fs::path(data_file).parent_path() : fs::path(images);
  if (folder.empty()) folder = ".";
  std::error_code error;
  constexpr size_t kLooks = 100;  // a few may be missing, and are told one by one
  for (const std::string& file : files.first(std::min(files.size(), kLooks))) {
    if (fs::exists(folder / file, error)) return folder.string();
    if (fs::exists(folder / "images" / file, error)) return (folder / "images").string();
  }
  return errors::ConfigInvalid(absl::StrCat("The images are not in ", folder.string(),
                                            " (there is no ", (folder / files[0]).string(),
                                            "); name their folder with --images DIR."));
}

namespace {

// The data file of a folder.
absl::StatusOr<fs::path> DataFile(const std::string& dir) {
  std::error_code error;
  std::vector<fs::path> found;
  const auto list = [&](absl::string_view begin, absl::string_view end) {
    found.clear();
    for (const auto& entry : fs::directory_iterator(dir, error)) {
      const std::string name = entry.path().filename().string();
      if (absl::StartsWith(name, begin) && absl::EndsWith(name, end)) found.push_back(entry.path());
    }
    std::sort(found.begin(), found.end());
    return found.size();
  };
  const auto several = [&] {
    std::string names;
    for (const fs::path& path : found) absl::StrAppend(&names, " ", path.filename().string());
    return errors::ConfigInvalid(
        absl::StrCat(dir, " has several data files:", names, ". Name one of them."));
  };
  const auto is_there = [&](const char* name) {
    return fs::is_regular_file(fs::path(dir) / name, error);
  };
  for (const char* name : {"scenes.json", "annotations.json", "refs.json"}) {
    if (is_there(name)) return fs::path(dir) / name;
  }
  if (const size_t count = list("refs", ".json"); count == 1) return found[0];
  if (!found.empty()) return several();
  // Its instances.json alone would be measured as COCO.
  if (list("refs", ".p") > 0) return found[0];
  if (is_there("instances.json")) return fs::path(dir) / "instances.json";
  if (const size_t count = list("instances", ".json"); count == 1) return found[0];
  if (!found.empty()) return several();
  return errors::ConfigInvalid(absl::StrCat(
      dir, " has no scenes.json, annotations.json, refs.json or instances.json; name the file."));
}

}  // namespace

absl::StatusOr<EvalData> LoadEvalData(const std::string& path, const std::string& images,
                                      const EvalOptions& options) {
  std::error_code error;
  fs::path file = path;
  if (fs::is_directory(file, error)) {
    CHORD_ASSIGN_OR_RETURN(file, DataFile(path));
  }
  EvalData out;
  out.name = file.filename().string();
  CHORD_ASSIGN_OR_RETURN(out.bytes, ReadWhole(file.string(), kMaxFileBytes));
  CHORD_RETURN_IF_ERROR(RefusePickle(file.string(), out.bytes));
  std::string instances;
  const fs::path beside = file.parent_path() / "instances.json";
  if (beside != file && fs::is_regular_file(beside, error)) {
    CHORD_ASSIGN_OR_RETURN(instances, ReadWhole(beside.string(), kMaxFileBytes));
  }
  CHORD_ASSIGN_OR_RETURN(out.items, ParseEvalData(out.bytes, instances, options));
  std::vector<std::string> names;
  for (const EvalItem& item : out.items) {
    if (names.empty() || names.back() != item.file) names.push_back(item.file);
  }
  CHORD_ASSIGN_OR_RETURN(out.images, ImageFolder(file.string(), images, names));
  return out;
}

}  // namespace chord::cli
