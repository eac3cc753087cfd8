#include "services/cli/bench/workload.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/image/image.h"
#include "services/cli/eval/eval_data.h"
#include "services/cli/files.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int64_t kMaxDataBytes = 512LL << 20;  // of one data file
constexpr int64_t kMaxDatasetBytes = 1LL << 30;
constexpr size_t kMaxPrompts = 1'000'000;

// Uniform in [0, 1) with 53 bits. The distributions of <random> differ between libraries, the
// engines do not.
double Uniform(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

absl::Status RatesInvalid() {
  return errors::ParameterInvalid(
      "--rate", absl::StrCat("a rate, a list \"2,4,8\" or a sweep \"FROM:TO:COUNT\", up to ",
                             kMaxBenchRate, " requests per second and ", kMaxBenchRuns, " rates"));
}

bool ParseRate(absl::string_view text, double& rate) {
  return absl::SimpleAtod(text, &rate) && rate > 0 && rate <= kMaxBenchRate;
}

// A string member, or "" when it is absent or something else.
std::string Text(const Json& row, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const auto it = row.find(name);
    if (it != row.end() && it->is_string()) return it->get<std::string>();
  }
  return "";
}

// Identifiers are numbers in COCO and strings elsewhere.
std::string Id(const Json& row, const char* name) {
  const auto it = row.find(name);
  return it == row.end() || it->is_structured() || it->is_null() ? "" : it->dump();
}

std::vector<std::string> PromptsOf(const Json& row) {
  const std::string one = Text(row, {"prompt", "question", "sentence", "caption", "sent", "raw"});
  if (!one.empty()) return {one};
  std::vector<std::string> out;
  for (const char* name : {"prompts", "questions", "sentences"}) {
    const auto list = row.find(name);
    if (list == row.end() || !list->is_array()) continue;
    for (const Json& item : *list) {
      if (item.is_string()) {
        out.push_back(item.get<std::string>());
      } else if (item.is_object()) {
        const std::string text = Text(item, {"raw", "sent", "sentence", "prompt"});
        if (!text.empty()) out.push_back(text);
      }
    }
  }
  return out;
}

absl::Status AddRow(const Json& row, absl::string_view where, std::vector<NamedPrompt>& out) {
  if (!row.is_object()) return errors::ConfigInvalid(absl::StrCat(where, " is no JSON object."));
  const std::string file = Text(row, {"file", "image", "file_name"});
  const std::vector<std::string> prompts = PromptsOf(row);
  if (file.empty() || prompts.empty()) {
    return errors::ConfigInvalid(absl::StrCat(where, " has no \"file\" or no \"prompt\"."));
  }
  for (const std::string& prompt : prompts) out.push_back({file, prompt});
  return absl::OkStatus();
}

absl::Status AddCoco(const Json& data, std::vector<NamedPrompt>& out) {
  const auto list = [&data](const char* name) {
    const auto it = data.find(name);
    return it != data.end() && it->is_array() ? *it : Json::array();
  };
  std::map<std::string, std::string> files, names;
  for (const Json& image : list("images")) {
    if (!image.is_object()) continue;
    const std::string file = Text(image, {"file_name", "file"});
    files[Id(image, "id")] = file;
    const std::string caption = Text(image, {"caption"});
    if (!caption.empty()) out.push_back({file, caption});
  }
  if (!out.empty()) return absl::OkStatus();
  for (const Json& category : list("categories")) {
    if (category.is_object()) names[Id(category, "id")] = Text(category, {"name"});
  }
  std::set<std::pair<std::string, std::string>> asked;
  for (const Json& annotation : list("annotations")) {
    if (!annotation.is_object()) continue;
    const auto file = files.find(Id(annotation, "image_id"));
    if (file == files.end() || file->second.empty()) {
      return errors::ConfigInvalid("An annotation names an image that \"images\" does not have.");
    }
    std::vector<std::string> prompts = PromptsOf(annotation);
    if (prompts.empty()) {
      const auto name = names.find(Id(annotation, "category_id"));
      if (name != names.end() && !name->second.empty()) prompts = {"all " + name->second};
    }
    for (std::string& prompt : prompts) {
      // Ten sheep of an image are one prompt.
      if (asked.emplace(file->second, prompt).second) out.push_back({file->second, prompt});
    }
  }
  return absl::OkStatus();
}

bool IsImage(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  char head[64] = {};
  file.read(head, sizeof(head));
  return image::Sniff(absl::string_view(head, static_cast<size_t>(file.gcount()))).ok();
}

std::vector<fs::path> FilesOf(const fs::path& dir) {
  std::vector<fs::path> out;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(dir, error)) {
    if (entry.is_regular_file(error)) out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

class DatasetReader {
 public:
  absl::Status Add(const fs::path& path, const std::string& prompt) {
    const auto [place, is_new] =
        index_.emplace(path.string(), static_cast<int>(out_.images.size()));
    if (is_new) {
      CHORD_ASSIGN_OR_RETURN(std::string bytes,
                             ReadWhole(path.string(), limits::kCeilingImageBytes));
      bytes_ += static_cast<int64_t>(bytes.size());
      if (bytes_ > kMaxDatasetBytes) {
        return errors::ConfigInvalid(absl::StrCat("The images have more than ",
                                                  kMaxDatasetBytes >> 20,
                                                  " MiB together; give fewer of them."));
      }
      out_.images.push_back({path.filename().string(), std::move(bytes)});
    }
    if (out_.prompts.size() >= kMaxPrompts) {
      return errors::ConfigInvalid(
          absl::StrCat("There are more than ", kMaxPrompts, " prompts; give fewer of them."));
    }
    out_.prompts.push_back({place->second, prompt});
    return absl::OkStatus();
  }

  absl::Status AddData(const fs::path& path, const std::string& images) {
    CHORD_ASSIGN_OR_RETURN(const std::string text, ReadWhole(path.string(), kMaxDataBytes));
    CHORD_RETURN_IF_ERROR(RefusePickle(path.string(), text));
    std::string instances;
    const fs::path beside = path.parent_path() / "instances.json";
    std::error_code error;
    if (beside != path && fs::is_regular_file(beside, error)) {
      CHORD_ASSIGN_OR_RETURN(instances, ReadWhole(beside.string(), kMaxDataBytes));
    }
    const absl::StatusOr<std::vector<NamedPrompt>> rows = ParsePrompts(text, instances);
    if (!rows.ok()) {
      return errors::ConfigInvalid(absl::StrCat(path.string(), ": ", rows.status().message()));
    }
    std::vector<std::string> files;
    for (const NamedPrompt& row : *rows) files.push_back(row.file);
    CHORD_ASSIGN_OR_RETURN(const fs::path folder, ImageFolder(path.string(), images, files));
    for (const NamedPrompt& row : *rows) {
      CHORD_RETURN_IF_ERROR(Add(folder / row.file, row.prompt));
    }
    return absl::OkStatus();
  }

  Dataset Take() { return std::move(out_); }
  bool empty() const { return out_.prompts.empty(); }

 private:
  Dataset out_;
  std::map<std::string, int> index_;
  int64_t bytes_ = 0;
};

}  // namespace

double Arrivals::Next() {
  at_ += -std::log1p(-Uniform(random_)) / rate_;
  return at_;
}

absl::StatusOr<std::vector<double>> ParseRates(absl::string_view text) {
  std::vector<double> out;
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  if (parts.size() == 3) {
    double from = 0, to = 0;
    int count = 0;
    if (!ParseRate(parts[0], from) || !ParseRate(parts[1], to) ||
        !absl::SimpleAtoi(parts[2], &count) || count < 2 ||
        static_cast<size_t>(count) > kMaxBenchRuns) {
      return RatesInvalid();
    }
    for (int i = 0; i < count; ++i) {
      // The last one exactly, without the rounding of the power.
      out.push_back(
          i == count - 1 ? to : from * std::pow(to / from, static_cast<double>(i) / (count - 1)));
    }
    return out;
  }
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    double rate = 0;
    if (!ParseRate(part, rate) || out.size() == kMaxBenchRuns) return RatesInvalid();
    out.push_back(rate);
  }
  return out;
}

absl::StatusOr<std::vector<NamedPrompt>> ParsePrompts(absl::string_view text,
                                                      absl::string_view instances) {
  absl::ConsumePrefix(&text, "\xef\xbb\xbf");
  std::vector<NamedPrompt> out;
  const Json whole = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  // A ref names its image by an id; its file_name is of a crop that is not distributed.
  const Json* refs = whole.is_array() ? &whole : nullptr;
  if (whole.is_object() && whole.contains("refs")) refs = &whole["refs"];
  if (refs != nullptr && refs->is_array() && !refs->empty() && refs->front().is_object() &&
      refs->front().contains("sentences") && refs->front().contains("image_id")) {
    CHORD_ASSIGN_OR_RETURN(const std::vector<EvalItem> items, ParseEvalData(text, instances, {}));
    for (const EvalItem& item : items) out.push_back({item.file, item.prompt});
  } else if (whole.is_array()) {
    for (size_t i = 0; i < whole.size(); ++i) {
      CHORD_RETURN_IF_ERROR(AddRow(whole[i], absl::StrCat("Row ", i + 1), out));
    }
  } else if (whole.is_object() && whole.contains("images")) {
    CHORD_RETURN_IF_ERROR(AddCoco(whole, out));
  } else if (whole.is_object()) {
    CHORD_RETURN_IF_ERROR(AddRow(whole, "Line 1", out));
  } else {
    int number = 0;
    for (const absl::string_view line : absl::StrSplit(text, '\n')) {
      ++number;
      if (absl::StripAsciiWhitespace(line).empty()) continue;
      const Json row = Json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
      CHORD_RETURN_IF_ERROR(AddRow(row, absl::StrCat("Line ", number), out));
    }
  }
  if (out.empty()) return errors::ConfigInvalid("There is no prompt in it.");
  return out;
}

absl::StatusOr<Dataset> LoadDataset(const std::string& path, const std::string& prompt,
                                    const std::string& images) {
  DatasetReader reader;
  std::error_code error;
  if (fs::is_directory(path, error)) {
    const std::vector<fs::path> files = FilesOf(path);
    const bool refs = std::any_of(files.begin(), files.end(), [](const fs::path& file) {
      return absl::StartsWith(file.filename().string(), "refs");
    });
    for (const fs::path& file : files) {
      const std::string extension = file.extension().string();
      if (!prompt.empty()) {
        if (IsImage(file)) CHORD_RETURN_IF_ERROR(reader.Add(file, prompt));
      } else if (refs && file.filename() == "instances.json") {
        continue;  // what the refs are about
      } else if (extension == ".json" || extension == ".jsonl" || extension == ".p") {
        CHORD_RETURN_IF_ERROR(reader.AddData(file, images));
      }
    }
  } else if (!prompt.empty() && IsImage(path)) {
    CHORD_RETURN_IF_ERROR(reader.Add(path, prompt));
  } else if (!prompt.empty()) {
    return errors::ConfigInvalid("With --prompt, DATA is an image or a folder of images.");
  } else {
    CHORD_RETURN_IF_ERROR(reader.AddData(path, images));
  }
  if (reader.empty()) {
    return errors::ConfigInvalid(
        absl::StrCat("There is nothing to ask in ", path,
                     ": give a folder with images and a .json or .jsonl file of prompts, or "
                     "images and --prompt."));
  }
  return reader.Take();
}

WorkloadSampler::Draw WorkloadSampler::Next() {
  Draw out;
  out.prompt =
      std::min(prompts_ - 1, static_cast<int>(Uniform(random_) * static_cast<double>(prompts_)));
  out.by_id = Uniform(random_) < reuse_;
  return out;
}

}  // namespace chord::cli
