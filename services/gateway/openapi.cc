#include "services/gateway/openapi.h"

#include <string>

namespace chord::gateway {

http::Route OpenApiRoute() {
  http::Route route;
  route.method = "GET";
  route.path = "/openapi.json";
  route.quick = true;
  route.handler = [](const http::Request&) {
    http::Response out;
    out.content_type = "application/json";
    out.fields.emplace_back("Cache-Control", "no-cache");
    out.body = std::string(kOpenApi);
    return out;
  };
  return route;
}

}  // namespace chord::gateway
