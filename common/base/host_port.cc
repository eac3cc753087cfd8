#include "common/base/host_port.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace chord {

std::optional<HostPort> ParseHostPort(absl::string_view text) {
  HostPort out;
  const size_t colon = text.rfind(':');
  const absl::string_view port = colon == absl::string_view::npos ? text : text.substr(colon + 1);
  absl::string_view host = colon == absl::string_view::npos ? "" : text.substr(0, colon);
  if (port.empty() || port.size() > 5 ||
      !std::all_of(port.begin(), port.end(), absl::ascii_isdigit) ||
      !absl::SimpleAtoi(port, &out.port) || out.port > 65535) {
    return std::nullopt;
  }
  if (absl::ConsumePrefix(&host, "[")) {
    if (!absl::ConsumeSuffix(&host, "]") || host.empty()) return std::nullopt;
  } else if (host.find_first_of(":[]") != absl::string_view::npos) {
    return std::nullopt;
  }
  out.host = std::string(host);
  return out;
}

std::string FormatHostPort(absl::string_view host, int port) {
  const bool v6 = host.find(':') != absl::string_view::npos;
  return v6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

}  // namespace chord
