#include "common/model/model_folder.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/errors.h"
#include "common/base/files.h"
#include "common/base/status_macros.h"

namespace chord::model {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxEntries = 10'000;  // of a folder that are looked at
constexpr size_t kMaxNamed = 5;         // in a message

constexpr char kGguf[] =
    "GGUF weights, the format of llama.cpp, which Chord does not read. Download the original "
    "checkpoint: a folder with config.json and model.safetensors.";

absl::Status Refuse(const std::string& path, absl::string_view what) {
  return errors::CheckpointInvalid(absl::StrCat(Printable(path), " ", what));
}

// Names in the folder, sorted; at most kMaxEntries. Empty when it cannot be read.
std::vector<std::string> Entries(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
    if (names.size() == kMaxEntries) break;
  }
  std::sort(names.begin(), names.end());
  return names;
}

template <typename Wanted>
std::vector<std::string> Only(const std::vector<std::string>& names, Wanted wanted) {
  std::vector<std::string> out;
  std::copy_if(names.begin(), names.end(), std::back_inserter(out), wanted);
  return out;
}

std::string Listed(const std::vector<std::string>& names) {
  std::vector<std::string> some;
  for (const std::string& name : names) {
    if (some.size() == kMaxNamed) break;
    some.push_back(Printable(name));
  }
  return absl::StrCat(absl::StrJoin(some, ", "), names.size() > some.size() ? ", ..." : "");
}

bool IsFolder(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

absl::Status RefuseFile(const std::string& path) {
  char magic[4] = {};
  std::ifstream(path, std::ios::binary).read(magic, sizeof magic);
  if (absl::string_view(magic, sizeof magic) == "GGUF") {
    return Refuse(path, absl::StrCat("is a file of ", kGguf));
  }
  return Refuse(path, "is a file. Name the folder that holds it.");
}

absl::StatusOr<std::string> TheSnapshot(const std::string& path) {
  const std::string root = path + "/snapshots";
  const std::vector<std::string> snapshots =
      Only(Entries(root), [&](const std::string& name) { return IsFolder(root + "/" + name); });
  if (snapshots.size() == 1) return root + "/" + snapshots[0];
  if (snapshots.empty()) {
    return Refuse(path,
                  "is a folder of the Hugging Face cache without a snapshot. Finish the download.");
  }
  return Refuse(
      path, absl::StrCat("is a folder of the Hugging Face cache with ", snapshots.size(),
                         " snapshots (", Listed(snapshots), "). Name one of them, as in snapshots/",
                         Printable(snapshots[0]), "."));
}

bool IsAdapter(absl::string_view name) {
  return name == "adapter_config.json" || name == "adapter_model.safetensors" ||
         name == "adapter_model.bin";
}

constexpr char kAdapter[] =
    "an adapter (PEFT, LoRA), which is a change to a model and not a model. Merge it into its base "
    "model first (merge_and_unload) and name the folder of the result.";

}  // namespace

absl::StatusOr<std::string> ResolveModelFolder(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode)) return RefuseFile(path);
  CHORD_RETURN_IF_ERROR(CheckFolder(path));
  if (FileExists(path, "config.json")) return path;
  if (IsFolder(path + "/snapshots")) return TheSnapshot(path);
  const std::vector<std::string> names = Entries(path);
  if (std::any_of(names.begin(), names.end(), IsAdapter)) {
    return Refuse(path, absl::StrCat("holds ", kAdapter));
  }
  const auto is_gguf = [](const std::string& name) {
    return absl::EndsWithIgnoreCase(name, ".gguf");
  };
  if (std::any_of(names.begin(), names.end(), is_gguf)) {
    return Refuse(path, absl::StrCat("holds ", kGguf));
  }
  const std::vector<std::string> models =
      Only(names, [](const std::string& name) { return absl::StartsWith(name, "models--"); });
  if (!models.empty()) {
    return Refuse(path, absl::StrCat("is the Hugging Face cache with ", models.size(), " models (",
                                     Listed(models), "). Name the folder of one of them."));
  }
  return path;
}

absl::Status MissingWeights(const std::string& dir) {
  const auto refuse = [](absl::string_view why) {
    return errors::CheckpointInvalid(
        absl::StrCat("No model.safetensors and no model.safetensors.index.json here. ", why));
  };
  const std::vector<std::string> names = Entries(dir);
  if (std::any_of(names.begin(), names.end(), IsAdapter)) {
    return refuse(absl::StrCat("The folder holds ", kAdapter));
  }
  const std::vector<std::string> shards = Only(names, [](const std::string& name) {
    return absl::EndsWith(name, ".safetensors") && absl::StrContains(name, "-of-");
  });
  if (!shards.empty()) {
    return refuse(absl::StrCat("There are ", shards.size(), " shards (", Listed(shards),
                               ") without their index, which says where each tensor is. Download "
                               "model.safetensors.index.json too."));
  }
  const std::vector<std::string> others =
      Only(names, [](const std::string& name) { return absl::EndsWith(name, ".safetensors"); });
  if (!others.empty()) {
    return refuse(absl::StrCat("There is ", Listed(others),
                               "; weights of a model are called model.safetensors."));
  }
  for (const absl::string_view ending : {".bin", ".bin.index.json", ".pth", ".pt"}) {
    if (std::any_of(names.begin(), names.end(),
                    [&](const std::string& name) { return absl::EndsWith(name, ending); })) {
      return refuse(
          "The folder has pickle weights only, which are never loaded. Convert them to "
          "safetensors.");
    }
  }
  if (std::any_of(names.begin(), names.end(),
                  [](const std::string& name) { return absl::EndsWith(name, ".gguf"); })) {
    return refuse(absl::StrCat("The folder holds ", kGguf));
  }
  return refuse("Is the folder complete?");
}

}  // namespace chord::model
