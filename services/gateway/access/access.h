// Who a request comes from, and whether it may: the client behind trusted proxies, and its API key.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/ip_set.h"
#include "common/obs/metrics.h"
#include "services/gateway/access/api_keys.h"

namespace chord::gateway {

// The parts of a request that say where it comes from.
struct Credentials {
  std::string peer;           // address of the connection, without port
  std::string forwarded_for;  // X-Forwarded-For, several joined by ','
  std::string authorization;  // Authorization
  std::string api_key;        // X-Api-Key: counts when Authorization holds no bearer token
};

struct Client {
  // What limits count by: the API key ("key:team-a"), else the address.
  std::string id;
  std::string key;  // its name; empty: none is wanted
};

// The client's address: of `forwarded_for` the last one that is not itself a trusted proxy, when
// the peer is one; else the peer. Pure.
std::string ClientAddress(const IpSet& trusted, absl::string_view peer,
                          absl::string_view forwarded_for);

// Thread-safe.
class Access {
 public:
  struct Options {
    IpSet trusted_proxies;
    std::string api_keys_file;  // empty: no key is wanted
  };
  // CONFIG_INVALID when the file cannot be read. `metrics` outlives it.
  static absl::StatusOr<std::unique_ptr<Access>> Create(const Options& options,
                                                        obs::Metrics& metrics);

  std::string AddressOf(const Credentials& credentials) const;
  // The reasons of ApiKeys::Check. Answers at once, and counts the outcome.
  absl::StatusOr<Client> Identify(const Credentials& credentials) const;
  // Reads the file again when it has changed. A broken one is reported and the old keys stay.
  void Maintain();

 private:
  Access(const Options& options, obs::Metrics& metrics) : options_(options), metrics_(metrics) {}

  const Options options_;
  obs::Metrics& metrics_;
  std::unique_ptr<ApiKeys> keys_;
  absl::Mutex mu_;
  std::string version_ ABSL_GUARDED_BY(mu_);  // of the file
};

}  // namespace chord::gateway
