#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace chord {

struct HostPort {
  std::string host;  // without brackets; empty: every address of this host
  int port = 0;
  bool operator==(const HostPort&) const = default;
};

// "host:port", "[v6]:port", ":port" or "port"; the port 0 to 65535 in decimal. nullopt when it is
// none of these: also for a v6 address without brackets, whose port cannot be told.
std::optional<HostPort> ParseHostPort(absl::string_view text);

// "host:port", with brackets around a host that has colons.
std::string FormatHostPort(absl::string_view host, int port);

}  // namespace chord
