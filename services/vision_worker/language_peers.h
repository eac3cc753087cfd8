// The language workers that may receive embeddings: those the settings name, and every address of
// those they name by dns:host:port, under the names that the gateway gives them too.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "chord/internal/v1/embedding.grpc.pb.h"
#include "common/rpc/peers.h"

namespace chord::vision_worker {

// Thread-safe.
class LanguagePeers {
 public:
  using Stub = internal::v1::EmbeddingSink::Stub;

  // `peers`: name to address. Names of dns: are looked up at once and then every `dns_every`.
  explicit LanguagePeers(const std::map<std::string, std::string>& peers,
                         absl::Duration dns_every = absl::Seconds(5));

  // Null: there is no such peer; if it may be one that the names have by now, they are looked up
  // at once, for who asks again. The stub may be used as long as it is held.
  std::shared_ptr<Stub> Find(absl::string_view name) const;

 private:
  mutable absl::Mutex mu_;
  std::map<std::string, std::shared_ptr<Stub>, std::less<>> stubs_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::string> source_ ABSL_GUARDED_BY(mu_);  // of those looked up
  std::unique_ptr<rpc::PeerWatch> watch_;  // last: its thread uses the rest
};

}  // namespace chord::vision_worker
