#include "common/rpc/peers.h"

#include <arpa/inet.h>
#include <netdb.h>

#include <algorithm>
#include <array>
#include <set>
#include <thread>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"

namespace chord::rpc {

std::optional<HostPort> SplitDnsAddress(absl::string_view address) {
  if (!absl::ConsumePrefix(&address, "dns:")) return std::nullopt;
  absl::StatusOr<HostPort> where = ParseHostPort(address);
  if (!where.ok() || where->host.empty() || where->host.size() > 253 || where->port < 1) {
    return std::nullopt;
  }
  return *std::move(where);
}

std::string PeerName(absl::string_view name, absl::string_view ip_and_port) {
  return absl::StrCat(name, "-", ip_and_port);
}

absl::StatusOr<std::vector<NamedPeer>> ResolvePeers(absl::string_view name, const HostPort& where) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(where.host.c_str(), std::to_string(where.port).c_str(), &hints, &found);
  if (error != 0) return absl::UnavailableError(gai_strerror(error));
  const absl::Cleanup free_found = [found] { freeaddrinfo(found); };
  std::set<std::string> addresses;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    if (at->ai_family == AF_INET) {
      const auto* v4 = reinterpret_cast<const sockaddr_in*>(at->ai_addr);
      if (inet_ntop(AF_INET, &v4->sin_addr, text.data(), text.size()) == nullptr) continue;
      addresses.insert(absl::StrCat(text.data(), ":", where.port));
    } else if (at->ai_family == AF_INET6) {
      const auto* v6 = reinterpret_cast<const sockaddr_in6*>(at->ai_addr);
      if (inet_ntop(AF_INET6, &v6->sin6_addr, text.data(), text.size()) == nullptr) continue;
      addresses.insert(absl::StrCat("[", text.data(), "]:", where.port));
    }
    if (addresses.size() >= kMaxResolvedPeers) break;
  }
  std::vector<NamedPeer> out;
  for (const std::string& address : addresses) out.push_back({PeerName(name, address), address});
  return out;
}

struct PeerWatch::State {
  const std::vector<Lookup> lookups;
  const absl::Duration every;
  const OnFound on_found;
  absl::Mutex mu;  // held while on_found runs
  absl::CondVar changed;
  bool stop ABSL_GUARDED_BY(mu) = false;
  bool again ABSL_GUARDED_BY(mu) = false;

  void Run() {
    while (true) {
      const absl::Time began = absl::Now();
      for (const Lookup& lookup : lookups) {
        const auto found = ResolvePeers(lookup.name, lookup.where);
        absl::MutexLock lock(&mu);
        if (stop) return;
        on_found(lookup, found);
      }
      absl::MutexLock lock(&mu);
      const absl::Time until = absl::Now() + every;
      while (!stop && absl::Now() < (again ? std::min(until, began + kLookAgain) : until)) {
        changed.WaitWithDeadline(&mu, again ? std::min(until, began + kLookAgain) : until);
      }
      if (stop) return;
      again = false;
    }
  }
};

void PeerWatch::LookAgain() {
  absl::MutexLock lock(&state_->mu);
  state_->again = true;
  state_->changed.SignalAll();
}

PeerWatch::PeerWatch(std::vector<Lookup> lookups, absl::Duration every, OnFound on_found)
    : state_(new State{std::move(lookups), every, std::move(on_found), {}, {}}) {
  std::thread([state = state_] { state->Run(); }).detach();
}

PeerWatch::~PeerWatch() {
  absl::MutexLock lock(&state_->mu);
  state_->stop = true;
  state_->changed.SignalAll();
}

}  // namespace chord::rpc
