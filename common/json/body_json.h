// JSON of a request body as a tree, with bounds that hold while it is read.
// Include only in .cc files: users of the result need <nlohmann/json.hpp>.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord {

struct BodyJsonLimits {
  int depth = 24;           // nested arrays and objects
  int64_t values = 20'000;  // of all kinds together, keys not counted
};

// The one JSON value (RFC 8259) that `body` is. Strings are bounded by the body alone: at most one
// copy of it is held. BODY_MALFORMED names what is wrong: a NUL byte, text that is not UTF-8, an
// unpaired surrogate escape, a key that occurs twice, too much nesting, or the byte where it stops
// being JSON.
absl::StatusOr<nlohmann::json> ParseBodyJson(absl::string_view body,
                                             const BodyJsonLimits& limits = {});

}  // namespace chord
