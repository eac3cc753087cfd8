// The handlers behind the HTTP routes. Each reports its request in metrics and log.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "absl/status/status.h"
#include "common/http/message.h"
#include "services/gateway/endpoint_deps.h"

namespace chord::gateway {

http::Response HandleGround(const EndpointDeps& deps, const http::Request& request);
http::Response HandleBatch(const EndpointDeps& deps, const http::Request& request);
http::Response HandleUpload(const EndpointDeps& deps, const http::Request& request);
// Of /api/images/{id}.
http::Response HandleTouch(const EndpointDeps& deps, const http::Request& request);
http::Response HandleDelete(const EndpointDeps& deps, const http::Request& request);

// One line of JSON that no cache keeps.
http::Response JsonResponse(const nlohmann::ordered_json& body);
// A problem that no cache keeps.
http::Response RefusalResponse(const absl::Status& status, const http::Request& request);

}  // namespace chord::gateway
