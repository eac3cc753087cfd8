// Which requests come with a key that is known: the keys of a file, their pace, and a limit on
// wrong ones.
//
// The file has SHA-256 hashes. That is enough for keys of `chord keys new`, which are 256 random
// bits: they cannot be found by trying. A presented key is hashed and compared with every entry,
// each time over all bytes, so that the time tells nothing.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/config/api_keys_file.h"
#include "services/gateway/access/token_bucket.h"

namespace chord::gateway {

// Thread-safe; answers at once.
class ApiKeys {
 public:
  // Unknown keys of one address: kWrongBurst at once, then one in kWrongInterval.
  static constexpr int kWrongBurst = 10;
  static constexpr absl::Duration kWrongInterval = absl::Seconds(6);

  explicit ApiKeys(std::vector<config::ApiKeyEntry> entries) { Replace(std::move(entries)); }

  // The name of the key. API_KEY_MISSING for an empty one, API_KEY_UNKNOWN, API_KEY_LIMIT when it
  // exceeds its pace, API_KEY_BLOCKED when `client` has sent too many unknown ones.
  absl::StatusOr<std::string> Check(absl::string_view key, absl::string_view client,
                                    absl::Time now);
  // From now on these; a key that stays keeps its pace.
  void Replace(std::vector<config::ApiKeyEntry> entries);

 private:
  struct Key {
    config::ApiKeyEntry entry;
    TokenBucket pace{1, 1};
  };
  Key* Find(absl::string_view key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CountWrong(absl::string_view client, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  absl::Mutex mu_;
  std::vector<Key> keys_ ABSL_GUARDED_BY(mu_);
  // Addresses that have sent unknown keys lately.
  std::unordered_map<std::string, TokenBucket> wrong_ ABSL_GUARDED_BY(mu_);
};

}  // namespace chord::gateway
