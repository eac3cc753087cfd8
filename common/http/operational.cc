#include "common/http/operational.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "common/http/problem.h"

namespace chord::http {
namespace {

Response State(const char* status) {
  Response out;
  out.content_type = "application/json";
  out.fields.emplace_back("Cache-Control", "no-store");
  out.body = nlohmann::json{{"status", status}}.dump() + "\n";
  return out;
}

}  // namespace

std::vector<Route> ProbeRoutes(std::function<absl::Status()> ready) {
  std::vector<Route> routes(2);
  routes[0] = {
      .method = "GET", .path = "/healthz", .handler = [](const Request&) { return State("ok"); }};
  routes[1] = {.method = "GET",
               .path = "/readyz",
               .handler = [ready = std::move(ready)](const Request& request) {
                 const absl::Status status = ready();
                 return status.ok() ? State("ready") : Problem(status, request.id);
               }};
  for (Route& route : routes) {
    route.quick = true;
    route.any_query = true;  // probes add their own
  }
  return routes;
}

Route MetricsRoute(std::function<std::string()> metrics) {
  Route route;
  route.method = "GET";
  route.path = "/metrics";
  route.handler = [metrics = std::move(metrics)](const Request&) {
    Response out;
    out.content_type = "text/plain; version=0.0.4; charset=utf-8";
    out.body = metrics();
    return out;
  };
  route.quick = true;
  route.any_query = true;  // scrapers add their own
  return route;
}

std::vector<Route> OperationalHandler(std::function<std::string()> metrics,
                                      std::function<absl::Status()> ready) {
  std::vector<Route> routes = ProbeRoutes(std::move(ready));
  routes.push_back(MetricsRoute(std::move(metrics)));
  return routes;
}

}  // namespace chord::http
