// Peers by name. "dns:host:port" stands for every address the name has right now, each a peer of
// its own: workers behind a headless service. Both the gateway and the vision worker name such
// peers by the same rule, so that a name means the same worker to both.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/host_port.h"

namespace chord::rpc {

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

// Looks names up again and again, on a thread of its own.
class PeerWatch {
 public:
  struct Lookup {
    std::string name;
    HostPort where;
  };
  // What one look-up found, or why nothing. One call at a time, never after the destructor; must
  // not block, nor destroy the watch.
  using OnFound = std::function<void(const Lookup&, const absl::StatusOr<std::vector<NamedPeer>>&)>;

  // The first round begins at once. `every` is the pause between rounds.
  PeerWatch(std::vector<Lookup> lookups, absl::Duration every, OnFound on_found);
  // Does not wait for a look-up that hangs in the system's resolver.
  ~PeerWatch();
  // Begins the next round at once: somebody asked for a peer that is not known. Rounds on demand
  // are at least kLookAgain apart.
  static constexpr absl::Duration kLookAgain = absl::Milliseconds(200);
  void LookAgain();
  PeerWatch(const PeerWatch&) = delete;
  PeerWatch& operator=(const PeerWatch&) = delete;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace chord::rpc
