// JSON of a model folder, parsed strictly: RFC 8259 and nothing more (no comments, no NaN, no byte
// order mark), every key once, depth, sizes and counts bounded before memory is taken.
// Include only in .cc files: code that uses the result needs <nlohmann/json.hpp>.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord {

struct JsonLimits {
  int depth = 16;                    // nested arrays and objects
  int64_t values = 200'000;          // upper bound of values in the document
  int64_t string_bytes = 1LL << 20;  // of one string as written, quotes excluded
};

// One pass without memory: bounds the nesting, the number of values, the length of every string and
// number, and refuses NUL and other control characters between tokens (the parser behind us takes
// a NUL for the end). Does not say that the text is JSON. The error has no file name.
absl::Status CheckJsonBounds(absl::string_view text, const JsonLimits& limits);

// The document; its top value is an object. CHECKPOINT_INVALID says where the text is wrong.
absl::StatusOr<nlohmann::json> ParseStrictJson(absl::string_view text,
                                               const JsonLimits& limits = {});

}  // namespace chord
