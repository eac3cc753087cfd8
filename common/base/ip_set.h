// A set of IP addresses and networks. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord {

// Immutable. An IPv4 address and its IPv4-mapped IPv6 form are the same.
class IpSet {
 public:
  // "10.0.0.1", "10.0.0.0/8", "::1", "fd00::/8". INVALID_ARGUMENT (not catalogued) names the entry
  // that is neither.
  static absl::StatusOr<IpSet> Parse(const std::vector<std::string>& entries);
  IpSet() = default;

  // False also for what is no address.
  bool Contains(absl::string_view address) const;
  bool empty() const { return networks_.empty(); }

 private:
  using Bytes = std::array<uint8_t, 16>;  // IPv6, or IPv4 mapped into it
  struct Network {
    Bytes address{};
    int prefix = 0;  // bits of `address` that count
  };
  static bool ParseAddress(absl::string_view text, Bytes* out);

  std::vector<Network> networks_;
};

}  // namespace chord
