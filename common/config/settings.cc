#include "common/config/settings.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/config/fields.h"

extern char** environ;

namespace chord::config {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::Message;

struct Flag {
  std::string name, value;
};

// `text` in lines of at most 76 bytes behind a margin.
void AppendWrapped(absl::string_view text, std::string* out) {
  constexpr size_t kWidth = 76;
  std::string line;
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (!line.empty() && line.size() + 1 + word.size() > kWidth) {
      absl::StrAppend(out, "      ", line, "\n");
      line.clear();
    }
    absl::StrAppend(&line, line.empty() ? "" : " ", word);
  }
  if (!line.empty()) absl::StrAppend(out, "      ", line, "\n");
}

// "gateway.max_queue" without its section when that is the program's own.
std::string FlagName(absl::string_view path, absl::string_view section) {
  if (!section.empty()) absl::ConsumePrefix(&path, absl::StrCat(section, "."));
  return std::string(path);
}

// The settings of other processes are no business of this one.
bool IsShown(absl::string_view path, absl::string_view section) {
  if (section.empty()) return true;
  for (absl::string_view other : {"gateway.", "vision_worker.", "llm_worker.", "serve."}) {
    if (absl::StartsWith(path, other)) return absl::StartsWith(path, absl::StrCat(section, "."));
  }
  return path != "model_dir";  // the section has its own
}

std::string Help(const Descriptor* type, absl::string_view section) {
  std::string out =
      "Settings, as --name=value, as CHORD_… variables, or in a YAML file given with --config "
      "FILE\n"
      "(docs/settings.md). 0 and an empty text stand for the default. --check_settings ends after\n"
      "the settings were read.\n";
  for (const Setting& setting : SettingsOf(type)) {
    if (!IsShown(setting.path, section)) continue;
    absl::StrAppend(&out, "  --", FlagName(setting.path, section), "=", TypeWord(setting.field()),
                    setting.field()->is_repeated() ? " (repeats)" : "", "\n");
    AppendWrapped(CommentOf(setting), &out);
  }
  return out;
}

// kCancelled for --help.
absl::StatusOr<std::vector<Flag>> SplitFlags(const std::vector<std::string>& args) {
  std::vector<Flag> flags;
  for (size_t i = 0; i < args.size(); ++i) {
    absl::string_view arg = args[i];
    if (arg == "--help" || arg == "-h") return absl::CancelledError();
    if (!absl::ConsumePrefix(&arg, "--")) {
      return errors::ConfigInvalid(absl::StrCat("\"", args[i], "\" is not a setting; see --help."));
    }
    const size_t equals = arg.find('=');
    if (equals != absl::string_view::npos) {
      flags.push_back({std::string(arg.substr(0, equals)), std::string(arg.substr(equals + 1))});
    } else if (i + 1 < args.size()) {
      flags.push_back({std::string(arg), args[++i]});
    } else {
      return errors::ConfigInvalid(absl::StrCat("--", arg, " needs a value; see --help."));
    }
  }
  return flags;
}

const Setting* Find(const std::vector<Setting>& settings, absl::string_view section,
                    absl::string_view name) {
  const std::string own = absl::StrCat(section, ".", name);
  const Setting* whole = nullptr;
  for (const Setting& setting : settings) {
    if (setting.path == own) return &setting;
    if (setting.path == name) whole = &setting;
  }
  return whole;
}

absl::Status MergeFlags(const std::vector<Flag>& flags, absl::string_view section, Message* message,
                        Origins* origins) {
  const std::vector<Setting> settings = SettingsOf(message->GetDescriptor());
  std::set<const Setting*> given;  // a repeated flag replaces the list of the file
  for (const Flag& flag : flags) {
    const Setting* setting = Find(settings, section, absl::StrReplaceAll(flag.name, {{"-", "_"}}));
    if (setting == nullptr) {
      return errors::ConfigInvalid(absl::StrCat("--", flag.name, " is not a setting; see --help."));
    }
    if (given.insert(setting).second) Clear(*setting, message);
    if (!SetFromText(*setting, flag.value, message)) {
      return errors::ConfigInvalid(
          absl::StrCat("--", flag.name, " must be ", TypeWord(setting->field()), "."));
    }
    (*origins)[setting->path] = absl::StrCat("--", flag.name);
  }
  return absl::OkStatus();
}

absl::Status MergeVariable(const Setting& setting, const std::string& name, absl::string_view value,
                           LoadedSettings* out) {
  std::vector<absl::string_view> parts = {value};
  if (setting.field()->is_repeated()) parts = absl::StrSplit(value, ',', absl::SkipWhitespace());
  Clear(setting, &out->values);
  for (absl::string_view part : parts) {
    if (!SetFromText(setting, absl::StripAsciiWhitespace(part), &out->values)) {
      return errors::ConfigInvalid(
          absl::StrCat("The variable ", name, " must be ", TypeWord(setting.field()), "."));
    }
  }
  out->origins[setting.path] = absl::StrCat("$", name);
  return absl::OkStatus();
}

absl::Status MergeEnvironment(const std::vector<std::string>& environment, LoadedSettings* out) {
  std::map<std::string, Setting> by_variable;
  for (Setting& setting : SettingsOf(v1::Settings::descriptor())) {
    std::string variable = VariableOf(setting.path);
    by_variable.emplace(std::move(variable), std::move(setting));
  }
  for (const std::string& entry : environment) {
    const std::pair<std::string, absl::string_view> variable =
        absl::StrSplit(entry, absl::MaxSplits('=', 1));
    const auto& [name, value] = variable;
    if (!absl::StartsWith(name, "CHORD_") || value.empty()) continue;
    const auto found = by_variable.find(name);
    if (found != by_variable.end()) {
      CHORD_RETURN_IF_ERROR(MergeVariable(found->second, name, value, out));
    } else if (name != "CHORD_CONFIG" && name != "CHORD_SUPERVISED") {
      out->unknown_variables.push_back(name);
    }
  }
  std::sort(out->unknown_variables.begin(), out->unknown_variables.end());
  return absl::OkStatus();
}

// The common model is that of every section without one of its own.
void InheritModel(LoadedSettings* out) {
  v1::Settings& values = out->values;
  if (values.model_dir().empty()) return;
  const auto inherit = [&](auto* section, const char* path) {
    if (!section->model_dir().empty()) return;
    section->set_model_dir(values.model_dir());
    out->origins[path] = out->origins["model_dir"];
  };
  inherit(values.mutable_gateway(), "gateway.model_dir");
  inherit(values.mutable_vision_worker(), "vision_worker.model_dir");
  inherit(values.mutable_llm_worker(), "llm_worker.model_dir");
}

std::string FileOf(const std::vector<Flag>& flags, const std::vector<std::string>& environment) {
  std::string file;
  for (absl::string_view entry : environment) {
    if (absl::ConsumePrefix(&entry, "CHORD_CONFIG=")) file = std::string(entry);
  }
  for (const Flag& flag : flags) {
    if (flag.name == "config") file = flag.value;
  }
  return file;
}

// The lines of sections that `path` enters and `last` was not in; returns the margin of the name.
std::string OpenSections(const Setting& setting, std::vector<std::string>* open, std::string* out) {
  std::vector<std::string> names = absl::StrSplit(setting.path, '.');
  names.pop_back();
  size_t same = 0;
  while (same < names.size() && same < open->size() && names[same] == (*open)[same]) ++same;
  for (size_t i = same; i < names.size(); ++i) {
    absl::StrAppend(out, std::string(2 * i, ' '), names[i], ":\n");
  }
  *open = names;
  return std::string(2 * names.size(), ' ');
}

std::string SectionTitle(const std::string& path) {
  const size_t dot = path.rfind('.');
  return dot == std::string::npos ? "" : path.substr(0, dot);
}

}  // namespace

std::vector<std::string> Environment() {
  std::vector<std::string> out;
  for (char** entry = environ; *entry != nullptr; ++entry) out.emplace_back(*entry);
  return out;
}

void UnsetVariables() {
  unsetenv("CHORD_CONFIG");
  for (const Setting& setting : SettingsOf(v1::Settings::descriptor())) {
    unsetenv(VariableOf(setting.path).c_str());
  }
}

std::string VariableOf(absl::string_view path) {
  return absl::StrCat("CHORD_", absl::AsciiStrToUpper(absl::StrReplaceAll(path, {{".", "_"}})));
}

absl::StatusOr<LoadedSettings> LoadSettings(const Sources& sources) {
  absl::StatusOr<std::vector<Flag>> flags = SplitFlags(sources.args);
  if (absl::IsCancelled(flags.status())) {
    return absl::CancelledError(Help(v1::Settings::descriptor(), sources.section));
  }
  if (!flags.ok()) return flags.status();
  LoadedSettings out;
  out.file = FileOf(*flags, sources.environment);
  if (!out.file.empty()) {
    CHORD_RETURN_IF_ERROR(MergeYamlFile(out.file, &out.values, &out.origins));
  }
  CHORD_RETURN_IF_ERROR(MergeEnvironment(sources.environment, &out));
  flags->erase(std::remove_if(flags->begin(), flags->end(),
                              [](const Flag& flag) { return flag.name == "config"; }),
               flags->end());
  CHORD_RETURN_IF_ERROR(MergeFlags(*flags, sources.section, &out.values, &out.origins));
  InheritModel(&out);
  return out;
}

absl::Status ApplyFlags(const std::vector<std::string>& args, Message* message) {
  const absl::StatusOr<std::vector<Flag>> flags = SplitFlags(args);
  if (absl::IsCancelled(flags.status())) {
    return absl::CancelledError(Help(message->GetDescriptor(), ""));
  }
  if (!flags.ok()) return flags.status();
  Origins origins;
  return MergeFlags(*flags, "", message, &origins);
}

std::string ToYamlFile(const v1::Settings& settings) {
  std::string out;
  std::vector<std::string> open;
  for (const Setting& setting : SettingsOf(v1::Settings::descriptor())) {
    if (!IsSet(setting, settings)) continue;
    const std::string margin = OpenSections(setting, &open, &out);
    absl::StrAppend(&out, margin, setting.field()->name(), ": ", ToYaml(setting, settings), "\n");
  }
  return out;
}

std::string Explain(const LoadedSettings& loaded) {
  std::string out;
  std::vector<std::string> open;
  for (const Setting& setting : SettingsOf(v1::Settings::descriptor())) {
    std::string line =
        absl::StrCat(OpenSections(setting, &open, &out), setting.field()->name(), ":");
    const auto origin = loaded.origins.find(setting.path);
    std::string comment;
    if (origin != loaded.origins.end()) {
      const std::string value = ToYaml(setting, loaded.values);
      if (!value.empty()) absl::StrAppend(&line, " ", value);
      comment = origin->second;
    } else {
      const std::string fallback = DefaultOf(setting);
      comment = fallback.empty() ? "not set" : absl::StrCat("default: ", fallback);
    }
    constexpr size_t kColumn = 40;
    if (line.size() < kColumn) line.resize(kColumn, ' ');
    absl::StrAppend(&out, line, "  # ", comment, "\n");
  }
  return out;
}

std::string Reference() {
  std::string out;
  std::string title;
  for (const Setting& setting : SettingsOf(v1::Settings::descriptor())) {
    const std::string section = SectionTitle(setting.path);
    if (out.empty() || section != title) {
      title = section;
      absl::StrAppend(&out, out.empty() ? "" : "\n", "## ",
                      section.empty() ? "All processes" : absl::StrCat("`", section, "`"),
                      "\n\n| setting | type | meaning |\n| --- | --- | --- |\n");
    }
    absl::StrAppend(&out, "| `", setting.field()->name(), "` | ",
                    setting.field()->is_repeated() ? "list of " : "",
                    absl::StripPrefix(absl::StripPrefix(TypeWord(setting.field()), "an "), "a "),
                    " | ", absl::StrReplaceAll(CommentOf(setting), {{"|", "\\|"}}), " |\n");
  }
  return out;
}

}  // namespace chord::config
