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
      Erase(LeastRecent(/*with_rows=*/false, /*except=*/0));
    }
    it = by_key_.emplace(name, Entry()).first;
    it->second.number = next_number_++;
    by_number_.emplace(it->second.number, it);
  }
  it->second.pinned = pin;
  it->second.keep = keep;
  it->second.last_use = now;
  return it->second.number;
}

std::shared_ptr<const engine::EmbeddingBuffer> ImageCache::Embeddings(uint64_t number) const {
  auto it = by_number_.find(number);
  return it == by_number_.end() ? nullptr : it->second->second.rows;
}

void ImageCache::Keep(uint64_t number, std::shared_ptr<const engine::EmbeddingBuffer> rows,
                      int64_t bytes) {
  auto found = by_number_.find(number);
  if (found == by_number_.end() || rows == nullptr) return;
  Entry& entry = found->second->second;
  DropRows(entry);
  // What is pinned gives way to what is pinned, never to less. Nothing goes for what will not fit.
  int64_t stays = 0;
  for (const auto& [name, other] : by_key_) {
    if (other.pinned && !entry.pinned) stays += other.bytes;
  }
  if (bytes > options_.max_bytes - stays) return;
  while (bytes > options_.max_bytes - bytes_) {
    DropRows(LeastRecent(/*with_rows=*/true, number)->second);
  }
  entry.rows = std::move(rows);
  entry.bytes = bytes;
  bytes_ += bytes;
}

void ImageCache::Drop(absl::string_view key) {
  const std::string prefix = absl::StrCat(key, "/");
  for (auto it = by_key_.lower_bound(prefix);
       it != by_key_.end() && absl::string_view(it->first).substr(0, prefix.size()) == prefix;) {
    Erase(it++);
  }
}

void ImageCache::DropNumber(uint64_t number) {
  if (auto it = by_number_.find(number); it != by_number_.end()) Erase(it->second);
}

void ImageCache::Expire(absl::Time now) {
  for (auto it = by_key_.begin(); it != by_key_.end();) {
    const auto next = std::next(it);
    if (now - it->second.last_use > it->second.keep) Erase(it);
    it = next;
  }
}

std::vector<uint64_t> ImageCache::TakeGone() { return std::exchange(gone_, {}); }

bool ImageCache::pinned(uint64_t number) const {
  auto it = by_number_.find(number);
  return it != by_number_.end() && it->second->second.pinned;
}

ImageCache::ByKey::iterator ImageCache::LeastRecent(bool with_rows, uint64_t except) {
  auto best = by_key_.end();
  for (auto it = by_key_.begin(); it != by_key_.end(); ++it) {
    const Entry& entry = it->second;
    if (entry.number == except || (with_rows && entry.rows == nullptr)) continue;
    if (best == by_key_.end() || std::pair(entry.pinned, entry.last_use) <
                                     std::pair(best->second.pinned, best->second.last_use)) {
      best = it;
    }
  }
  return best;
}

void ImageCache::DropRows(Entry& entry) {
  entry.rows = nullptr;
  bytes_ -= std::exchange(entry.bytes, 0);
}

void ImageCache::Erase(ByKey::iterator it) {
  DropRows(it->second);
  gone_.push_back(it->second.number);
  by_number_.erase(it->second.number);
  by_key_.erase(it);
}

}  // namespace chord::llm_worker
