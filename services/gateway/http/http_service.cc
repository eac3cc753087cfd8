#include "services/gateway/http/http_service.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/http/operational.h"
#include "services/gateway/http/handlers.h"
#include "services/gateway/openai/service.h"
#include "services/gateway/openapi.h"

namespace chord::gateway {
namespace {

constexpr int64_t kOtherFieldsBytes = 1 << 20;  // of a body beyond its image
// Of a batch; more goes as a stream over gRPC, or with images that were uploaded before.
constexpr int64_t kBatchBytes = 64 << 20;

using ApiHandler = http::Response (*)(const EndpointDeps&, const http::Request&);

http::Route Api(std::string method, std::string path, ApiHandler handler, const EndpointDeps& deps,
                int64_t body_limit) {
  http::Route route;
  route.method = std::move(method);
  route.path = std::move(path);
  route.handler = [deps, handler](http::Request request) { return handler(deps, request); };
  route.body_limit = body_limit;
  return route;
}

http::Route Version(const ServiceVersion& version) {
  const nlohmann::ordered_json body = {{"version", version.version},
                                       {"model", version.model},
                                       {"model_fingerprint", version.model_fingerprint}};
  http::Route route;
  route.method = "GET";
  route.path = "/version";
  route.handler = [body](const http::Request&) { return JsonResponse(body); };
  route.quick = true;
  return route;
}

}  // namespace

std::vector<http::Route> HttpRoutes(const EndpointDeps& deps, const ServiceVersion& version,
                                    std::function<absl::Status()> ready, http::Route metrics) {
  std::vector<http::Route> routes = http::ProbeRoutes(std::move(ready));
  routes.push_back(std::move(metrics));
  // Base64 takes four bytes for three; the rest is for the other fields.
  const int64_t one_image = (deps.images.limits().max_bytes + 2) / 3 * 4 + kOtherFieldsBytes;
  const auto admit_request = [&admission = deps.admission](const http::Request& request) {
    return admission.Check(request.peer);
  };
  routes.push_back(Api("POST", "/api/ground", HandleGround, deps, one_image));
  routes.back().admit = admit_request;
  routes.push_back(
      Api("POST", "/api/ground/batch", HandleBatch, deps, std::max(one_image, kBatchBytes)));
  routes.back().admit = admit_request;
  routes.push_back(Api("POST", "/api/images", HandleUpload, deps, one_image));
  routes.back().admit = [&admission = deps.admission](const http::Request& request) {
    return admission.CheckUpload(request.peer);
  };
  for (const auto& [method, handler] :
       {std::pair<const char*, ApiHandler>("GET", HandleTouch), {"DELETE", HandleDelete}}) {
    routes.push_back(Api(method, "/api/images/*", handler, deps, 0));
    routes.back().quick = true;
  }
  for (http::Route& route : openai::Routes(deps, version.openai, one_image)) {
    routes.push_back(std::move(route));
  }
  routes.push_back(OpenApiRoute());
  routes.push_back(Version(version));
  return routes;
}

}  // namespace chord::gateway
