// The HTTP endpoints: routes over the core.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/http/message.h"
#include "services/gateway/endpoint_deps.h"
#include "services/gateway/openai/service.h"

namespace chord::gateway {

// What GET /version and the routes under /v1 report.
struct ServiceVersion {
  std::string version;  // of the program
  std::string model;
  std::string model_fingerprint;
  openai::Service openai;
};

// `ready` says whether a request could be answered now; /readyz tells it. `metrics` is the route of
// /metrics.
std::vector<http::Route> HttpRoutes(const EndpointDeps& deps, const ServiceVersion& version,
                                    std::function<absl::Status()> ready, http::Route metrics);

}  // namespace chord::gateway
