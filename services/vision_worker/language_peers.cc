#include "services/vision_worker/language_peers.h"

#include <utility>
#include <vector>

#include "common/rpc/channel.h"

namespace chord::vision_worker {
namespace {

std::shared_ptr<LanguagePeers::Stub> MakeStub(const std::string& address) {
  return internal::v1::EmbeddingSink::NewStub(rpc::MakeChannel(address));
}

}  // namespace

LanguagePeers::LanguagePeers(const std::map<std::string, std::string>& peers,
                             absl::Duration dns_every) {
  std::vector<rpc::PeerWatch::Lookup> lookups;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [name, address] : peers) {
      if (const auto where = rpc::SplitDnsAddress(address)) {
        lookups.push_back({name, *where});
      } else {
        stubs_[name] = MakeStub(address);
      }
    }
  }
  if (lookups.empty()) return;
  watch_ = std::make_unique<rpc::PeerWatch>(
      std::move(lookups), dns_every,
      [this](const rpc::PeerWatch::Lookup& lookup,
             const absl::StatusOr<std::vector<rpc::NamedPeer>>& found) {
        // A name that is not known for a moment keeps its workers.
        if (!found.ok() || found->empty()) return;
        absl::MutexLock lock(&mu_);
        for (auto at = source_.begin(); at != source_.end();) {
          const auto known = at++;
          if (known->second != lookup.name) continue;
          bool there = false;
          for (const rpc::NamedPeer& peer : *found) there |= peer.name == known->first;
          if (there) continue;
          stubs_.erase(known->first);
          source_.erase(known);
        }
        for (const rpc::NamedPeer& peer : *found) {
          if (stubs_.count(peer.name) > 0) continue;
          stubs_[peer.name] = MakeStub(peer.address);
          source_[peer.name] = lookup.name;
        }
      });
}

std::shared_ptr<LanguagePeers::Stub> LanguagePeers::Find(absl::string_view name) const {
  {
    absl::MutexLock lock(&mu_);
    if (const auto found = stubs_.find(name); found != stubs_.end()) return found->second;
  }
  // Not under our lock: the watch holds its own while it waits for ours.
  if (watch_ != nullptr) watch_->LookAgain();
  return nullptr;
}

}  // namespace chord::vision_worker
