// A status as an HTTP answer: RFC 9457 problem details. The only place where the two meet.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "absl/status/status.h"
#include "common/http/message.h"

namespace chord::http {

// The HTTP status that tells `status` best; 200 for OK.
int HttpStatus(const absl::Status& status);

// The standard phrase of an HTTP status ("Bad Request").
absl::string_view ReasonPhrase(int http_status);

// application/problem+json with type, title, status, detail, code, request_id; Retry-After when the
// status knows. Only catalogued errors keep their text (errors.h, ForClient), so log `status`
// first. `status` must not be OK.
Response Problem(const absl::Status& status, absl::string_view request_id);
// The body of that answer.
nlohmann::ordered_json ProblemJson(const absl::Status& status, absl::string_view request_id);
// `json` on one line; ill-formed UTF-8 is replaced.
std::string Dump(const nlohmann::ordered_json& json);

}  // namespace chord::http
