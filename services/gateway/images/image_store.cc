#include "services/gateway/images/image_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/sha256.h"

namespace chord::gateway {
namespace {

constexpr absl::string_view kPrefix = "img_";
// Changes when what goes into a key does, or when decoding changes its pixels.
constexpr absl::string_view kKeyVersion = "chord image key 1";
// How the vision worker decodes, always: EXIF applied once, alpha composed on white.
constexpr absl::string_view kDecodeSettings = "exif=apply;alpha=white";

}  // namespace

std::string NewImageId() { return absl::StrCat(kPrefix, NewTicketId()); }

bool IsImageId(absl::string_view text) {
  return absl::StartsWith(text, kPrefix) && IsTicketId(text.substr(kPrefix.size()));
}

std::string ImageKey(absl::string_view image_id, absl::string_view digest,
                     const image::FramePlan& plan, absl::string_view model_fingerprint) {
  Sha256 hash;
  for (absl::string_view field :
       {kKeyVersion, image_id, digest, kDecodeSettings, model_fingerprint}) {
    hash.UpdateField(field);
  }
  hash.UpdateField(absl::StrCat(plan.stored.width, " ", plan.stored.height, " ", plan.orientation,
                                " ", plan.upright.width, " ", plan.upright.height, " ",
                                plan.resized.width, " ", plan.resized.height, " ", plan.grid.h, " ",
                                plan.grid.w, " ", plan.tokens));
  return hash.Digest();
}

bool ImageStore::Expired(const Entry& entry, absl::Time now) const {
  return now >= entry.last_use + options_.ttl;
}

absl::Status ImageStore::CheckRoom(int64_t bytes, bool pin, absl::Time now) const {
  const int64_t most = pin ? options_.max_bytes / 2 : options_.max_bytes;
  if (bytes > most - kEntryBytes) {
    return errors::ImageBytesLimit(bytes, std::max<int64_t>(most - kEntryBytes, 0));
  }
  absl::MutexLock lock(&mu_);
  int64_t pinned = 0;
  absl::Time first = absl::InfiniteFuture();
  for (const Entry& entry : tiers_[2]) {
    if (Expired(entry, now)) continue;
    pinned += entry.cost;
    first = std::min(first, entry.last_use + options_.ttl);
  }
  if (pinned + bytes + kEntryBytes > most) {
    return errors::ImageStoreFull(std::max(first - now, absl::Seconds(1)));
  }
  return absl::OkStatus();
}

absl::StatusOr<absl::Time> ImageStore::Put(StoredImageRef image, bool uploaded,
                                           ImageAffinity affinity, absl::Time now,
                                           std::vector<Removed>& removed) {
  const auto bytes = static_cast<int64_t>(image->bytes.size());
  if (auto status = CheckRoom(bytes, image->pin, now); !status.ok()) return status;
  absl::MutexLock lock(&mu_);
  SweepLocked(now, removed);
  const int64_t cost = bytes + kEntryBytes;
  while (bytes_[0] + bytes_[1] + bytes_[2] + cost > options_.max_bytes) {
    List& victims = tiers_[0].empty() ? tiers_[1] : tiers_[0];
    if (victims.empty()) return errors::ImageStoreFull(options_.ttl);  // pinned since we asked
    Drop(victims.begin(), Cause::kEvicted, removed);
  }
  const int tier = image->pin ? 2 : uploaded ? 1 : 0;
  const std::string id = image->id;
  List& list = tiers_[tier];
  list.push_back({std::move(image), std::move(affinity), now, cost, tier});
  bytes_[tier] += cost;
  by_id_[id] = std::prev(list.end());
  BalanceTiers();
  return now + options_.ttl;
}

std::optional<ImageStore::Found> ImageStore::Use(absl::string_view id, absl::Time now) {
  absl::MutexLock lock(&mu_);
  const auto found = by_id_.find(std::string(id));
  if (found == by_id_.end() || Expired(*found->second, now)) return std::nullopt;
  Entry& entry = *found->second;
  entry.last_use = std::max(entry.last_use, now);
  Move(found->second, std::max(entry.tier, 1));
  Found out{entry.image, entry.affinity, entry.last_use + options_.ttl};
  BalanceTiers();
  return out;
}

void ImageStore::SetAffinity(absl::string_view id, const ImageAffinity& affinity) {
  absl::MutexLock lock(&mu_);
  if (const auto found = by_id_.find(std::string(id)); found != by_id_.end()) {
    found->second->affinity = affinity;
  }
}

bool ImageStore::Delete(absl::string_view id, absl::Time now, std::vector<Removed>& removed) {
  absl::MutexLock lock(&mu_);
  const auto found = by_id_.find(std::string(id));
  if (found == by_id_.end()) return false;
  const bool alive = !Expired(*found->second, now);
  Drop(found->second, alive ? Cause::kDeleted : Cause::kExpired, removed);
  return alive;
}

void ImageStore::Sweep(absl::Time now, std::vector<Removed>& removed) {
  absl::MutexLock lock(&mu_);
  SweepLocked(now, removed);
}

ImageStore::Summary ImageStore::summary() const {
  absl::MutexLock lock(&mu_);
  return {bytes_[0] + bytes_[1] + bytes_[2], static_cast<int64_t>(by_id_.size())};
}

void ImageStore::Move(List::iterator entry, int tier) {
  bytes_[entry->tier] -= entry->cost;
  bytes_[tier] += entry->cost;
  tiers_[tier].splice(tiers_[tier].end(), tiers_[entry->tier], entry);
  entry->tier = tier;
}

void ImageStore::Drop(List::iterator entry, Cause cause, std::vector<Removed>& removed) {
  by_id_.erase(entry->image->id);
  bytes_[entry->tier] -= entry->cost;
  removed.push_back({std::move(entry->image), std::move(entry->affinity), cause});
  tiers_[entry->tier].erase(entry);
}

// The lists are in order of use, but for those that BalanceTiers moved: they may be older than what
// stands before them, and then are swept a little later. Use refuses them in time all the same.
void ImageStore::SweepLocked(absl::Time now, std::vector<Removed>& removed) {
  for (List& list : tiers_) {
    while (!list.empty() && Expired(list.front(), now))
      Drop(list.begin(), Cause::kExpired, removed);
  }
}

void ImageStore::BalanceTiers() {
  while (bytes_[1] > options_.max_bytes / 4 * 3 && tiers_[1].size() > 1) {
    Move(tiers_[1].begin(), 0);
  }
}

}  // namespace chord::gateway
