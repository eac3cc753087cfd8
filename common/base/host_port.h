// Network addresses as users write them. Pure: no name is resolved.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord {

struct HostPort {
  std::string host;  // without brackets; empty when only a port was given
  int port = 0;      // 0 – 65535

  // "host:port", with brackets around an IPv6 address.
  std::string ToString() const;
};

// Takes "host:port", "[ipv6]:port", ":port" and "port". INVALID_ARGUMENT otherwise; the message
// names the accepted forms and not the option that the text came from.
absl::StatusOr<HostPort> ParseHostPort(absl::string_view text);

}  // namespace chord
