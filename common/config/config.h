// Settings files (protobuf text or JSON) and flags onto one protobuf message.
#pragma once

#include <google/protobuf/message.h>

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace chord::config {

// Fills `config` from a file; JSON when the first byte that is not blank is '{'.
// CONFIG_INVALID with the line or field; an unknown field is an error.
absl::Status LoadConfigFile(const std::string& path, google::protobuf::Message* config);

// "--max_queue=8", "--max_queue 8", "--language_workers name=address" (repeats) and
// "--config FILE" (read first, wherever it stands). "--help" lists every field with its comment and
// returns kCancelled with the text as message. Anything else is CONFIG_INVALID.
absl::Status ApplyFlags(const std::vector<std::string>& args, google::protobuf::Message* config);

}  // namespace chord::config
