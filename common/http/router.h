// Method and path -> route, or the problem that says why there is none. Pure.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/http/message.h"

namespace chord::http {

struct Routed {
  // The route to run; of a refused method the first one of the path, for the log. Null: none.
  const Route* route = nullptr;
  bool options = false;  // an OPTIONS request that the server answers itself
  std::string allow;     // value of the Allow field; empty when the method is taken
  absl::Status problem;  // ROUTE_UNKNOWN, METHOD_NOT_ALLOWED or FIELD_UNKNOWN (of the query)
};

// Thread-safe.
class Router {
 public:
  explicit Router(std::vector<Route> routes);
  // `query` is what follows '?', not decoded. The first route that matches is taken.
  Routed Find(absl::string_view method, absl::string_view path, absl::string_view query) const;
  // The methods that `path` takes, as the value of an Allow field.
  std::string Allow(absl::string_view path) const;

 private:
  const std::vector<Route> routes_;
};

}  // namespace chord::http
