#include "services/gateway/access/api_keys.h"

#include <openssl/crypto.h>

#include <utility>

#include "common/base/errors.h"
#include "common/base/sha256.h"

namespace chord::gateway {
namespace {

constexpr size_t kMaxWrongClients = 10'000;
constexpr size_t kMaxKeyBytes = 512;

}  // namespace

void ApiKeys::Replace(std::vector<config::ApiKeyEntry> entries) {
  absl::MutexLock lock(&mu_);
  std::vector<Key> keys;
  for (config::ApiKeyEntry& entry : entries) {
    Key key;
    key.pace = TokenBucket(entry.requests_per_second, entry.burst);
    for (const Key& old : keys_) {
      const bool same = old.entry.sha256 == entry.sha256 &&
                        old.entry.requests_per_second == entry.requests_per_second &&
                        old.entry.burst == entry.burst;
      if (same) key.pace = old.pace;
    }
    key.entry = std::move(entry);
    keys.push_back(std::move(key));
  }
  keys_ = std::move(keys);
}

// All entries are looked at, whichever fits.
ApiKeys::Key* ApiKeys::Find(absl::string_view key) {
  Sha256 hash;
  hash.Update(key);
  const std::string digest = hash.Digest();
  Key* found = nullptr;
  for (Key& candidate : keys_) {
    if (CRYPTO_memcmp(candidate.entry.sha256.data(), digest.data(), digest.size()) == 0) {
      found = &candidate;
    }
  }
  return found;
}

absl::Status ApiKeys::CountWrong(absl::string_view client, absl::Time now) {
  if (wrong_.size() >= kMaxWrongClients) {
    for (auto it = wrong_.begin(); it != wrong_.end();) {
      it = it->second.IsFull(now) ? wrong_.erase(it) : std::next(it);
    }
    // More addresses than that at once: the memory stays bounded, the keys are as hard to find.
    if (wrong_.size() >= kMaxWrongClients) wrong_.clear();
  }
  const auto bucket =
      wrong_
          .try_emplace(std::string(client), 1 / absl::ToDoubleSeconds(kWrongInterval), kWrongBurst)
          .first;
  absl::Duration wait;
  return bucket->second.Take(now, &wait) ? errors::ApiKeyUnknown() : errors::ApiKeyBlocked(wait);
}

absl::StatusOr<std::string> ApiKeys::Check(absl::string_view key, absl::string_view client,
                                           absl::Time now) {
  if (key.empty()) return errors::ApiKeyMissing();
  absl::MutexLock lock(&mu_);
  const auto wrong = wrong_.find(std::string(client));
  if (wrong != wrong_.end() && !wrong->second.Has(now)) {
    return errors::ApiKeyBlocked(kWrongInterval);
  }
  Key* found = key.size() <= kMaxKeyBytes ? Find(key) : nullptr;
  if (found == nullptr || now >= found->entry.expires) return CountWrong(client, now);
  absl::Duration wait;
  if (found->entry.requests_per_second > 0 && !found->pace.Take(now, &wait)) {
    return errors::ApiKeyLimit(found->entry.requests_per_second, wait);
  }
  return found->entry.name;
}

}  // namespace chord::gateway
