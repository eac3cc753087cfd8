// A settings file: YAML (and so JSON), whose keys are the fields of one protobuf message.
#pragma once

#include <google/protobuf/message.h>

#include <map>
#include <string>

#include "absl/status/status.h"

namespace chord::config {

// Where a setting's value comes from, by path: "chord.yaml:12", "$CHORD_LOG_LEVEL", "--max_queue".
using Origins = std::map<std::string, std::string>;

// Puts the file's settings into `settings` and their lines into `origins`. A key without a value is
// a setting that is not given. CONFIG_INVALID names file, line and key: a key that is no setting
// (with the nearest one that is), one given twice, a value of the wrong type, YAML that does not
// parse, a file that cannot be read or is over 8 MiB.
absl::Status MergeYamlFile(const std::string& path, google::protobuf::Message* settings,
                           Origins* origins);

}  // namespace chord::config
