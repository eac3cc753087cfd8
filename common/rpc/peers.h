// Peers by name. "dns:host:port" stands for every address the name has right now, each a peer of
// its own: workers behind a headless service. Both the gateway and the vision worker name such
// peers by the same rule, so that a name means the same worker to both.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord::rpc {

struct HostPort {
  std::string host;
  int port = 0;
};
// Of "dns:host:port" ("dns:[v6]:port"); nullopt when it is not of that form.
std::optional<HostPort> SplitDnsAddress(absl::string_view address);

struct NamedPeer {
  std::string name;
  std::string address;  // for MakeChannel
  bool operator==(const NamedPeer&) const = default;
};

// The name of one worker of a looked-up set: NAME-IP:PORT.
std::string PeerName(absl::string_view name, absl::string_view ip_and_port);

// All addresses of `where`, sorted, without doubles, at most kMaxResolvedPeers. Blocks as long as
// the resolver does. UNAVAILABLE (not catalogued) when the name is not known or the resolver fails.
inline constexpr size_t kMaxResolvedPeers = 256;
absl::StatusOr<std::vector<NamedPeer>> ResolvePeers(absl::string_view name, const HostPort& where);

}  // namespace chord::rpc
