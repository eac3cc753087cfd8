#include "services/llm_worker/image_cache.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace chord::llm_worker {

uint64_t ImageCache::Use(absl::string_view key, image::Grid grid, bool pin, absl::Duration keep,
                         absl::Time now) {
  keep = keep <= absl::ZeroDuration() ? options_.ttl : std::min(keep, options_.max_ttl);
  const std::string name = absl::StrCat(key, "/", grid.h, "x", grid.w);
  auto it = by_key_.find(name);
  if (it != by_key_.end() && now - it->second.last_use > it->second.keep) {
    Erase(it);
    it = by_key_.end();
  }
  if (it == by_key_.end()) {
    if (by_key_.size() >= options_.max_images) {
      Erase(LeastRecent(/*with_embeddings=*/false, /*except=*/0));
    }
    it = by_key_.emplace(name, Entry()).first;
    it->second.id = next_id_++;
    by_id_.emplace(it->second.id, it);
  }
  it->second.pinned = pin;
  it->second.keep = keep;
  it->second.last_use = now;
  return it->second.id;
}

std::shared_ptr<const engine::EmbeddingBuffer> ImageCache::Embeddings(uint64_t id) const {
  auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : it->second->second.embeddings;
}

void ImageCache::Store(uint64_t id, std::shared_ptr<const engine::EmbeddingBuffer> embeddings,
                       int64_t bytes) {
  auto found = by_id_.find(id);
  if (found == by_id_.end() || embeddings == nullptr) return;
  Entry& entry = found->second->second;
  DropEmbeddings(entry);
  // Pinned embeddings are evicted only for pinned ones. Nothing is evicted for what will not fit.
  int64_t protected_bytes = 0;
  for (const auto& [name, other] : by_key_) {
    if (other.pinned && !entry.pinned) protected_bytes += other.bytes;
  }
  if (bytes > options_.max_bytes - protected_bytes) return;
  while (bytes > options_.max_bytes - bytes_) {
    DropEmbeddings(LeastRecent(/*with_embeddings=*/true, id)->second);
  }
  entry.embeddings = std::move(embeddings);
  entry.bytes = bytes;
  bytes_ += bytes;
}

void ImageCache::Invalidate(absl::string_view key) {
  const std::string prefix = absl::StrCat(key, "/");
  for (auto it = by_key_.lower_bound(prefix);
       it != by_key_.end() && absl::string_view(it->first).substr(0, prefix.size()) == prefix;) {
    Erase(it++);
  }
}

void ImageCache::InvalidateId(uint64_t id) {
  if (auto it = by_id_.find(id); it != by_id_.end()) Erase(it->second);
}

void ImageCache::Expire(absl::Time now) {
  for (auto it = by_key_.begin(); it != by_key_.end();) {
    const auto next = std::next(it);
    if (now - it->second.last_use > it->second.keep) Erase(it);
    it = next;
  }
}

std::vector<uint64_t> ImageCache::TakeEvicted() { return std::exchange(evicted_, {}); }

bool ImageCache::pinned(uint64_t id) const {
  auto it = by_id_.find(id);
  return it != by_id_.end() && it->second->second.pinned;
}

ImageCache::ByKey::iterator ImageCache::LeastRecent(bool with_embeddings, uint64_t except) {
  auto best = by_key_.end();
  for (auto it = by_key_.begin(); it != by_key_.end(); ++it) {
    const Entry& entry = it->second;
    if (entry.id == except || (with_embeddings && entry.embeddings == nullptr)) continue;
    if (best == by_key_.end() || std::pair(entry.pinned, entry.last_use) <
                                     std::pair(best->second.pinned, best->second.last_use)) {
      best = it;
    }
  }
  return best;
}

void ImageCache::DropEmbeddings(Entry& entry) {
  entry.embeddings = nullptr;
  bytes_ -= std::exchange(entry.bytes, 0);
}

void ImageCache::Erase(ByKey::iterator it) {
  DropEmbeddings(it->second);
  evicted_.push_back(it->second.id);
  by_id_.erase(it->second.id);
  by_key_.erase(it);
}

}  // namespace chord::llm_worker
