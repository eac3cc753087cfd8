// proto/chord/config/v1/config.proto as text: descriptors in a program have no comments.
#pragma once

#include "absl/strings/string_view.h"

namespace chord::config {

extern const absl::string_view kConfigText;

}  // namespace chord::config
