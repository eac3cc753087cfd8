// The description of every HTTP route as an OpenAPI 3.1 document, served at /openapi.json.
#pragma once

#include "absl/strings/string_view.h"
#include "common/http/message.h"

namespace chord::gateway {

extern const absl::string_view kOpenApi;  // web/openapi.json, compiled in

http::Route OpenApiRoute();

}  // namespace chord::gateway
