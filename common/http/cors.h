// Cross-origin resource sharing (Fetch standard). Pure.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/http/message.h"

namespace chord::http {

// True for "*" and for an origin as browsers send it: scheme://host or scheme://host:port, the
// scheme http or https, in lower case, without a path.
bool IsCorsOrigin(absl::string_view text);

// Which pages of other origins may read responses. Thread-safe. Credentials are never allowed.
class CorsPolicy {
 public:
  // Empty: no other origin. "*": any.
  explicit CorsPolicy(std::vector<std::string> allowed_origins);

  // Fields of every response to a request with this Origin field (empty: it has none).
  Fields ForResponse(absl::string_view origin) const;
  // Whether an OPTIONS request with these fields is a preflight that this policy answers.
  bool IsPreflight(const Request& request) const;
  // Fields of the answer to a preflight, beside those of ForResponse. `methods` is the value of the
  // Allow field of its address.
  Fields ForPreflight(absl::string_view methods) const;

 private:
  bool Allows(absl::string_view origin) const;

  const std::vector<std::string> origins_;
  const bool any_;
};

}  // namespace chord::http
