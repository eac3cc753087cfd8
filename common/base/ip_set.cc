#include "common/base/ip_set.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace chord {
namespace {

constexpr int kMappedBits = 96;  // ::ffff:0:0/96

}  // namespace

bool IpSet::ParseAddress(absl::string_view text, Bytes* out) {
  const std::string address(text);
  in_addr four{};
  if (inet_pton(AF_INET, address.c_str(), &four) == 1) {
    out->fill(0);
    (*out)[10] = (*out)[11] = 0xFF;
    std::memcpy(out->data() + 12, &four, 4);
    return true;
  }
  return inet_pton(AF_INET6, address.c_str(), out->data()) == 1;
}

absl::StatusOr<IpSet> IpSet::Parse(const std::vector<std::string>& entries) {
  IpSet out;
  for (absl::string_view entry : entries) {
    const size_t slash = entry.find('/');
    const absl::string_view address = entry.substr(0, slash);
    const bool four = address.find(':') == absl::string_view::npos;
    const int longest = four ? 32 : 128;
    Network network;
    network.prefix = longest;
    const bool good = ParseAddress(address, &network.address) &&
                      (slash == absl::string_view::npos ||
                       absl::SimpleAtoi(entry.substr(slash + 1), &network.prefix)) &&
                      network.prefix >= 0 && network.prefix <= longest;
    if (!good) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", entry, "\" is no IP address and no network such as 10.0.0.0/8"));
    }
    if (four) network.prefix += kMappedBits;
    out.networks_.push_back(network);
  }
  return out;
}

bool IpSet::Contains(absl::string_view address) const {
  Bytes bytes;
  if (networks_.empty() || !ParseAddress(address, &bytes)) return false;
  return std::any_of(networks_.begin(), networks_.end(), [&](const Network& network) {
    for (int bit = 0; bit < network.prefix; ++bit) {
      const int mask = 0x80 >> (bit % 8);
      if ((bytes[bit / 8] & mask) != (network.address[bit / 8] & mask)) return false;
    }
    return true;
  });
}

}  // namespace chord
