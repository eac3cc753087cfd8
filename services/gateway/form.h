// The body of POST /api/ground -> a question. Pure.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/http/message.h"

namespace chord::gateway {

struct GroundForm {
  absl::string_view image;  // points into the request, or into `decoded`
  std::string decoded;      // of a data: URL
  std::string prompt;
  std::optional<int> max_new_tokens;
};

// multipart/form-data (fields image, prompt, max_new_tokens, grammar) or a flat JSON object of the
// same names whose image is a data: URL with base64. Unknown and repeated fields are refused, and
// so are fields of the contract that this version does not offer.
absl::StatusOr<GroundForm> ParseGroundForm(const http::Request& request);

// Strict base64 (RFC 4648 §4: padded, no blanks, no stray bits), decoded in place. False: it is
// not.
bool DecodeBase64(std::string& text);

// A client's own limit in seconds (field X-Request-Timeout), at least a millisecond.
absl::StatusOr<std::optional<absl::Duration>> RequestTimeout(const http::Request& request);

}  // namespace chord::gateway
