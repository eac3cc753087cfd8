// The addresses that `chord serve` gives to its gateway.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord::cli {

// `text` ("HOST:PORT", "[IPV6]:PORT", ":PORT" or "PORT"; without a host 127.0.0.1) with a concrete
// port in place of 0, so that a gateway that is restarted is found where it was. CONFIG_INVALID
// names `flag` when the text is malformed, the host unknown, or the port taken: another server
// there would answer in place of ours.
absl::StatusOr<std::string> ReserveListenAddress(const std::string& text, absl::string_view flag);

// Where a client on this host reaches a server that listens on `address`: loopback for a wildcard.
std::string LocalAddressOf(const std::string& address);

}  // namespace chord::cli
