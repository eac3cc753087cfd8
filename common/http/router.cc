#include "common/http/router.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"

namespace chord::http {
namespace {

bool MatchesPath(const Route& route, absl::string_view path) {
  absl::string_view prefix = route.path;
  return absl::ConsumeSuffix(&prefix, "*") ? absl::StartsWith(path, prefix) : path == prefix;
}

absl::Status CheckQuery(const Route& route, absl::string_view query) {
  if (route.any_query) return absl::OkStatus();
  for (absl::string_view parameter : absl::StrSplit(query, '&', absl::SkipEmpty())) {
    const absl::string_view name = parameter.substr(0, parameter.find('='));
    if (std::find(route.query.begin(), route.query.end(), name) == route.query.end()) {
      return errors::QueryParameterUnknown(name);
    }
  }
  return absl::OkStatus();
}

}  // namespace

Router::Router(std::vector<Route> routes) : routes_(std::move(routes)) {}

std::string Router::Allow(absl::string_view path) const {
  std::vector<absl::string_view> methods;
  const auto add = [&methods](absl::string_view method) {
    if (std::find(methods.begin(), methods.end(), method) == methods.end()) {
      methods.push_back(method);
    }
  };
  for (const Route& route : routes_) {
    if (!MatchesPath(route, path)) continue;
    if (route.method.empty()) {
      for (absl::string_view any : {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"}) add(any);
    } else {
      add(route.method);
      if (route.method == "GET") add("HEAD");
    }
  }
  add("OPTIONS");
  return absl::StrJoin(methods, ", ");
}

Routed Router::Find(absl::string_view method, absl::string_view path,
                    absl::string_view query) const {
  Routed out;
  const absl::string_view wanted = method == "HEAD" ? "GET" : method;
  for (const Route& route : routes_) {
    if (!MatchesPath(route, path)) continue;
    if (out.route == nullptr) out.route = &route;
    if (!route.method.empty() && route.method != wanted) continue;
    out.route = &route;
    out.problem = CheckQuery(route, query);
    return out;
  }
  out.options = method == "OPTIONS" && (out.route != nullptr || path == "*");
  if (out.route == nullptr && !out.options) {
    out.problem = errors::RouteUnknown();
    return out;
  }
  out.allow = Allow(path);
  if (out.options) {
    out.route = nullptr;
  } else {
    out.problem = errors::MethodNotAllowed(out.allow);
  }
  return out;
}

}  // namespace chord::http
