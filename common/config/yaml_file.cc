#include "common/config/yaml_file.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/errors.h"
#include "common/base/files.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/config/fields.h"

namespace chord::config {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Steps from one word to the other: a letter more, less or another.
size_t Distance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({replaced, row[j] + 1, row[j - 1] + 1}));
    }
  }
  return row.back();
}

std::string Suggestion(const Descriptor* type, absl::string_view key) {
  constexpr size_t kFarthest = 3;
  if (key.size() > 64) return "";
  size_t best = kFarthest + 1;
  absl::string_view name;
  for (int i = 0; i < type->field_count(); ++i) {
    const size_t distance = Distance(key, type->field(i)->name());
    if (distance < best) {
      best = distance;
      name = type->field(i)->name();
    }
  }
  return best <= kFarthest ? absl::StrCat(" Is \"", name, "\" meant?") : "";
}

class Reader {
 public:
  Reader(const std::string& file, Message* settings, Origins* origins)
      : file_(file), settings_(settings), origins_(origins) {
    for (Setting& setting : SettingsOf(settings->GetDescriptor())) {
      by_path_.emplace(setting.path, std::move(setting));
    }
  }

  absl::Status Read(const YAML::Node& root) {
    return Section(root, settings_->GetDescriptor(), "");
  }

 private:
  std::string Place(const YAML::Node& node) const {
    return absl::StrCat(file_, ":", node.Mark().line + 1);
  }
  template <typename... Parts>
  absl::Status Wrong(const YAML::Node& node, const Parts&... parts) const {
    return errors::ConfigInvalid(absl::StrCat(Place(node), ": ", parts...));
  }

  absl::Status Section(const YAML::Node& node, const Descriptor* type, const std::string& path) {
    if (node.IsNull()) return absl::OkStatus();
    if (!node.IsMap()) {
      return Wrong(node, path.empty() ? "the file" : path,
                   " must be settings, one \"name: value\" a line.");
    }
    std::set<std::string> seen;
    for (const auto& entry : node) {
      if (!entry.first.IsScalar()) return Wrong(entry.first, "a setting's name must be a word.");
      const std::string& key = entry.first.Scalar();
      const std::string name = path.empty() ? key : absl::StrCat(path, ".", key);
      const FieldDescriptor* field = type->FindFieldByName(key);
      if (field == nullptr) {
        return Wrong(entry.first, "there is no setting \"", Printable(name), "\".",
                     Suggestion(type, key));
      }
      if (!seen.insert(key).second) return Wrong(entry.first, "\"", name, "\" is given twice.");
      const auto setting = by_path_.find(name);
      CHORD_RETURN_IF_ERROR(setting == by_path_.end()
                                ? Section(entry.second, field->message_type(), name)
                                : Value(entry.first, entry.second, setting->second));
    }
    return absl::OkStatus();
  }

  absl::Status Value(const YAML::Node& key, const YAML::Node& value, const Setting& setting) {
    if (value.IsNull()) return absl::OkStatus();
    Clear(setting, settings_);
    if (setting.field()->is_repeated() && value.IsSequence()) {
      for (const YAML::Node& item : value) CHORD_RETURN_IF_ERROR(Scalar(item, setting));
    } else {
      CHORD_RETURN_IF_ERROR(Scalar(value, setting));
    }
    (*origins_)[setting.path] = Place(key);
    return absl::OkStatus();
  }

  absl::Status Scalar(const YAML::Node& node, const Setting& setting) {
    const FieldDescriptor* field = setting.field();
    std::string text;
    if (node.IsScalar()) {
      text = node.Scalar();
    } else if (setting.is_peer() && node.IsMap() && node.size() == 2 && node["name"] &&
               node["address"] && node["name"].IsScalar() && node["address"].IsScalar()) {
      text = absl::StrCat(node["name"].Scalar(), "=", node["address"].Scalar());
    } else {
      return Wrong(node, setting.path, " must be ", field->is_repeated() ? "a list of " : "",
                   setting.is_peer() ? "NAME=ADDRESS or {name: …, address: …}" : TypeWord(field),
                   ".");
    }
    if (SetFromText(setting, text, settings_)) return absl::OkStatus();
    return Wrong(node, setting.path, " must be ", TypeWord(field), ".");
  }

  const std::string file_;
  Message* const settings_;
  Origins* const origins_;
  std::map<std::string, Setting> by_path_;
};

absl::StatusOr<std::string> ReadWhole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return errors::ConfigInvalid(absl::StrCat("Cannot read the settings file ", path, "."));
  }
  std::string text(limits::kMaxConfigBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (static_cast<int64_t>(text.size()) > limits::kMaxConfigBytes) {
    return errors::ConfigInvalid(absl::StrCat("The settings file ", path, " is too large."));
  }
  if (text.find('\0') != std::string::npos) {
    return errors::ConfigInvalid(absl::StrCat("The settings file ", path, " is not text."));
  }
  return text;
}

}  // namespace

absl::Status MergeYamlFile(const std::string& path, Message* settings, Origins* origins) {
  CHORD_ASSIGN_OR_RETURN(const std::string text, ReadWhole(path));
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.empty()) return absl::OkStatus();
    if (documents.size() > 1) {
      return errors::ConfigInvalid(
          absl::StrCat("The settings file ", path, " holds more than one YAML document."));
    }
    return Reader(path, settings, origins).Read(documents[0]);
  } catch (const YAML::Exception& error) {
    return errors::ConfigInvalid(
        absl::StrCat(path, ":", error.mark.line + 1, ": not valid YAML: ", error.msg, "."));
  }
}

}  // namespace chord::config
