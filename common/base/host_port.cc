#include "common/base/host_port.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace chord {
namespace {

absl::Status Malformed() {
  return absl::InvalidArgumentError("must be HOST:PORT, [IPV6]:PORT, :PORT or PORT");
}

bool IsHostCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-' || c == '_' ||
         c == ':' || c == '%';
}

}  // namespace

std::string HostPort::ToString() const {
  return absl::StrContains(host, ':') ? absl::StrCat("[", host, "]:", port)
                                      : absl::StrCat(host, ":", port);
}

absl::StatusOr<HostPort> ParseHostPort(absl::string_view text) {
  HostPort out;
  const size_t colon = text.rfind(':');
  absl::string_view host, port = text;
  if (colon != absl::string_view::npos) {
    host = text.substr(0, colon);
    port = text.substr(colon + 1);
  }
  if (port.empty() || port.size() > 5 ||
      !std::all_of(port.begin(), port.end(), absl::ascii_isdigit) ||
      !absl::SimpleAtoi(port, &out.port) || out.port > 65535) {
    return Malformed();
  }
  if (absl::StartsWith(host, "[")) {
    if (host.size() < 4 || host.back() != ']' || !absl::StrContains(host, ':')) return Malformed();
    host = host.substr(1, host.size() - 2);
  } else if (absl::StrContains(host, ':')) {
    return Malformed();  // an IPv6 address needs brackets, or its last group would pass for a port
  }
  if (!std::all_of(host.begin(), host.end(), IsHostCharacter)) return Malformed();
  out.host = std::string(host);
  return out;
}

}  // namespace chord
