// The images that this worker knows: the numbers under which their KV is kept (kv_manager.h), and
// their embeddings, for the time when the KV had to make room. Bounded in entries and bytes, least
// recently used goes first and pinned ones last; each has a time to live after its last use.
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

  // The number of the image with that key, the same as long as it is known; a new one otherwise.
  // Numbers are never given out twice. `keep` zero: the default. Counts as a use. The grid belongs
  // to the identity: positions, and with them KV, depend on it.
  uint64_t Use(absl::string_view key, image::Grid grid, bool pin, absl::Duration keep,
               absl::Time now);
  // A number for an image that nobody may find again.
  uint64_t Nameless() { return next_number_++; }

  // null when they are not kept.
  std::shared_ptr<const engine::EmbeddingBuffer> Embeddings(uint64_t number) const;
  // Keeps them if there is room beside what is pinned. Unknown numbers are ignored.
  void Keep(uint64_t number, std::shared_ptr<const engine::EmbeddingBuffer> rows, int64_t bytes);

  void Drop(absl::string_view key);
  void DropNumber(uint64_t number);
  void Expire(absl::Time now);
  // The numbers that have gone since the last call: their KV is to be forgotten.
  std::vector<uint64_t> TakeGone();
  bool pinned(uint64_t number) const;

  size_t images() const { return by_key_.size(); }
  int64_t bytes() const { return bytes_; }

 private:
  struct Entry {
    uint64_t number = 0;
    bool pinned = false;
    absl::Duration keep;
    absl::Time last_use;
    std::shared_ptr<const engine::EmbeddingBuffer> rows;
    int64_t bytes = 0;
  };
  using ByKey = std::map<std::string, Entry, std::less<>>;
  ByKey::iterator LeastRecent(bool with_rows, uint64_t except);
  void DropRows(Entry& entry);
  void Erase(ByKey::iterator it);

  const Options options_;
  ByKey by_key_;  // key ‖ grid
  std::map<uint64_t, ByKey::iterator> by_number_;
  std::vector<uint64_t> gone_;
  int64_t bytes_ = 0;
  uint64_t next_number_ = 1;
};

}  // namespace chord::llm_worker
