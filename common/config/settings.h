// The settings in force: from the settings file, the environment and the command line, in this
// order; the later wins.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "chord/config/v1/config.pb.h"
#include "common/config/yaml_file.h"

namespace chord::config {

struct Sources {
  // "--max_queue=8", "--max_queue 8", "--log.level=debug", "--language_workers name=address"
  // (repeats) and "--config FILE". '-' in a name stands for '_'.
  std::vector<std::string> args;
  // Names without a section belong to this one: "gateway" takes --max_queue for
  // --gateway.max_queue. Empty: every name is a whole path.
  std::string section;
  // "NAME=VALUE". Those of settings are CHORD_ and the path, in upper case with '_' for '.':
  // CHORD_LOG_LEVEL, CHORD_GATEWAY_MAX_IN_FLIGHT. CHORD_CONFIG names the file when no flag does.
  // The values of a list are separated by commas. An empty value is one that is not given.
  std::vector<std::string> environment;
};

struct LoadedSettings {
  v1::Settings values;  // sections without a model_dir have the common one
  Origins origins;      // of what was given
  std::string file;     // empty: none
  // CHORD_… variables that are no setting. Not an error: Kubernetes makes some for every Service.
  std::vector<std::string> unknown_variables;
};

// CONFIG_INVALID names the place and the setting. --help returns kCancelled (not catalogued) with
// the text as message.
absl::StatusOr<LoadedSettings> LoadSettings(const Sources& sources);

// This process's environment, for Sources.
std::vector<std::string> Environment();
// Takes the variables of settings out of the environment, for processes that get all their settings
// from a file. Not thread-safe.
void UnsetVariables();
// The variable of a setting: "log.level" -> "CHORD_LOG_LEVEL".
std::string VariableOf(absl::string_view path);

// Flags onto one message. CONFIG_INVALID as above; kCancelled for --help.
absl::Status ApplyFlags(const std::vector<std::string>& args, google::protobuf::Message* message);

// A settings file with the given values, which LoadSettings reads as the same.
std::string ToYamlFile(const v1::Settings& settings);
// Every setting, its value and where that comes from, or its default, as a settings file with
// comments.
std::string Explain(const LoadedSettings& loaded);
// Every setting as Markdown: docs/settings.md.
std::string Reference();

}  // namespace chord::config
