// The images that this worker knows: the ids under which their KV is cached (kv_manager.h), and
// their embeddings, for the time when the KV was evicted. Bounded in entries and bytes: the least
// recently used is evicted first, pinned ones last. Each entry has a time to live after its last
// use.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/engine/language_model.h"
#include "common/image/frame_plan.h"

namespace chord::llm_worker {

// Not thread-safe; time comes in as an argument.
class ImageCache {
 public:
  struct Options {
    int64_t max_bytes = 256LL << 20;  // of embeddings
    size_t max_images = 4096;
    absl::Duration ttl = absl::Minutes(10);  // for requests that do not say
    absl::Duration max_ttl = absl::Hours(24);
  };
  explicit ImageCache(const Options& options) : options_(options) {}

  // The id of the image with that key, the same as long as it is known; a new one otherwise. Ids
  // are never given out twice. `keep` zero: the default. Counts as a use. The grid belongs to the
  // identity: positions, and with them KV, depend on it.
  uint64_t Use(absl::string_view key, image::Grid grid, bool pin, absl::Duration keep,
               absl::Time now);
  // An id for an image that no other request may find.
  uint64_t NewId() { return next_id_++; }

  // Null when they are not cached.
  std::shared_ptr<const engine::EmbeddingBuffer> Embeddings(uint64_t id) const;
  // Caches them if there is room beside what is pinned. Unknown ids are ignored.
  void Store(uint64_t id, std::shared_ptr<const engine::EmbeddingBuffer> embeddings, int64_t bytes);

  void Invalidate(absl::string_view key);
  void InvalidateId(uint64_t id);
  void Expire(absl::Time now);
  // The ids that were evicted, invalidated or have expired since the last call: their KV is to be
  // invalidated.
  std::vector<uint64_t> TakeEvicted();
  bool pinned(uint64_t id) const;

  size_t images() const { return by_key_.size(); }
  int64_t bytes() const { return bytes_; }

 private:
  struct Entry {
    uint64_t id = 0;
    bool pinned = false;
    absl::Duration keep;
    absl::Time last_use;
    std::shared_ptr<const engine::EmbeddingBuffer> embeddings;
    int64_t bytes = 0;
  };
  using ByKey = std::map<std::string, Entry, std::less<>>;
  ByKey::iterator LeastRecent(bool with_embeddings, uint64_t except);
  void DropEmbeddings(Entry& entry);
  void Erase(ByKey::iterator it);

  const Options options_;
  ByKey by_key_;  // key ‖ grid
  std::map<uint64_t, ByKey::iterator> by_id_;
  std::vector<uint64_t> evicted_;
  int64_t bytes_ = 0;
  uint64_t next_id_ = 1;
};

}  // namespace chord::llm_worker
