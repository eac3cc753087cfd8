// Errors under /v1: a status as OpenAI's error object. Pure.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/http/message.h"

namespace chord::gateway::openai {

// `status` with the name of the request's parameter that is at fault ("messages[0].content").
absl::Status WithParam(absl::Status status, absl::string_view param);

// The parameter that is at fault: what WithParam set, else what the reason says (IMAGE_… and
// PROMPT_… are about "messages"); empty: none.
std::string ParamOf(const absl::Status& status);

// {"error": {"message", "type", "param", "code"}} on one line. `code` is our reason; `type` is
// "invalid_request_error", "authentication_error", "permission_error", "rate_limit_error" or
// "server_error", by the HTTP status. Only catalogued errors keep their text.
std::string ErrorJson(const absl::Status& status);

// The same as a response with its HTTP status and Retry-After. `status` must not be OK.
http::Response ErrorResponse(const absl::Status& status);

}  // namespace chord::gateway::openai
