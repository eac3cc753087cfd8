#include "common/http/cors.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "common/base/host_port.h"

namespace chord::http {

bool IsCorsOrigin(absl::string_view text) {
  if (text == "*") return true;
  if (!absl::ConsumePrefix(&text, "http://") && !absl::ConsumePrefix(&text, "https://"))
    return false;
  if (text.empty() || text.size() > 300) return false;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = absl::ascii_islower(byte) || absl::ascii_isdigit(byte) ||
                       absl::StrContains("-._:[]", absl::string_view(&c, 1));
    if (!plain) return false;
  }
  const bool has_port = text.back() != ']' && absl::StrContains(text, ':');
  if (!has_port) return true;
  const auto parsed = ParseHostPort(text);
  return parsed.ok() && !parsed->host.empty() && parsed->port > 0;
}

CorsPolicy::CorsPolicy(std::vector<std::string> allowed_origins)
    : origins_(std::move(allowed_origins)),
      any_(std::find(origins_.begin(), origins_.end(), "*") != origins_.end()) {}

bool CorsPolicy::Allows(absl::string_view origin) const {
  return !origin.empty() &&
         (any_ || std::find(origins_.begin(), origins_.end(), origin) != origins_.end());
}

Fields CorsPolicy::ForResponse(absl::string_view origin) const {
  Fields out;
  if (origins_.empty()) return out;
  // The response depends on who asks, also when it allows nothing.
  if (!any_) out.emplace_back("Vary", "Origin");
  if (!Allows(origin)) return out;
  out.emplace_back("Access-Control-Allow-Origin", any_ ? "*" : std::string(origin));
  out.emplace_back("Access-Control-Expose-Headers",
                   "X-Request-Id, X-Client-Request-Id, Retry-After");
  return out;
}

bool CorsPolicy::IsPreflight(const Request& request) const {
  return request.method == "OPTIONS" && Allows(request.field("origin")) &&
         !request.field("access-control-request-method").empty();
}

Fields CorsPolicy::ForPreflight(absl::string_view methods) const {
  return {{"Access-Control-Allow-Methods", std::string(methods)},
          {"Access-Control-Allow-Headers",
           "Authorization, Content-Type, X-Request-Id, X-Request-Timeout"},
          {"Access-Control-Max-Age", "600"}};
}

}  // namespace chord::http
