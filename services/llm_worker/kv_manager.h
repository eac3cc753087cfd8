// The owners of KV pages: running sequences, and a prefix tree that caches pages of earlier ones.
// Integers only: no tensors, no threads, no clock (time comes in as an argument).
//
// A prompt is a list of token keys, one a KV row; equal lists have equal KV. A text token's key is
// its id, an image row's key is made of the image's id, which is given out once for each image and
// never again (image_cache.h), so that two images never share a row whatever their pixels hash to.
//
// A node of the tree is a page. A full page is shared by all sequences whose keys run through it;
// of a page that fits only in part, or is not full, a sequence gets a copy of the rows that fit
// (copy on write). Nodes that no sequence runs through are the cache; they are evicted, least
// recently used first and pinned ones last, when a running sequence needs their page.
//
// A sequence is admitted only when the rows it may ever need can be had: its pages are reserved
// then and taken when they are written to. So a running sequence never waits for memory and is
// never preempted.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <tuple>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"

namespace chord::llm_worker {

using TokenKey = uint64_t;
inline TokenKey TextKey(int32_t id) { return static_cast<uint32_t>(id); }
// Row `row` of image `image` (> 0).
inline TokenKey ImageKey(uint64_t image, int32_t row) {
  return (image << 24 | static_cast<uint32_t>(row)) | TokenKey{1} << 63;
}

// The pages of one running sequence. Made by PagedKvManager::Admit, ended by Release.
struct KvLease;

// Not thread-safe.
class PagedKvManager {
 public:
  struct Options {
    int pages = 0;
    int page_rows = 16;
  };
  explicit PagedKvManager(const Options& options);
  ~PagedKvManager();
  PagedKvManager(const PagedKvManager&) = delete;
  PagedKvManager& operator=(const PagedKvManager&) = delete;

  // Rows of `prompt` whose KV is cached. At most prompt.size() - 1: the last row is always
  // computed, since its logits are needed.
  int MatchedPrefixLength(absl::Span<const TokenKey> prompt) const;

  // The caller copies `rows` rows of page `from` to page `to` before the sequence's first step and
  // before the next call of the manager.
  struct Copy {
    int32_t from = 0, to = 0;
    int rows = 0;
  };
  struct Admission {
    KvLease* lease = nullptr;  // owned by the manager
    int cached_rows = 0;       // valid after the copy
    std::optional<Copy> copy;
  };
  // `max_rows` >= prompt.size(): all the rows the sequence may ever write. `image`: id of the
  // prompt's image, 0: none. `share`: whether its rows may be cached for others. nullopt: does not
  // fit now.
  std::optional<Admission> Admit(absl::Span<const TokenKey> prompt, int max_rows, uint64_t image,
                                 bool share, absl::Time now);
  // Whether a sequence of that many rows fits when nothing else runs.
  bool CanEverFit(int max_rows) const;

  // The pages of rows [0, rows), taking what was reserved. REQUIRES: rows <= max_rows.
  absl::Span<const int32_t> Pages(KvLease* lease, int rows);
  // Keys of rows after the prompt, as they become known.
  void Append(KvLease* lease, absl::Span<const TokenKey> keys);
  // Rows [0, rows) are written and their keys known: others may use them from now on.
  void InsertPrefix(KvLease* lease, int rows);
  // What was inserted stays cached, the other pages are free.
  void Release(KvLease* lease, absl::Time now);
  // Rows that `prompt` has in common with the prompt that `lease` will insert.
  static int SharedPromptRows(const KvLease& lease, absl::Span<const TokenKey> prompt);

  // Drops the cached rows of that image and everything after them. Sequences that run through them
  // keep their pages until they end.
  void InvalidateImage(uint64_t image);
  void SetPinned(uint64_t image, bool pinned);

  struct Counts {
    int capacity = 0;
    int used = 0;    // pages of running sequences
    int cached = 0;  // pages of no running sequence, cached for later ones
    int free = 0;
    int reserved = 0;  // of cached and free, those that running sequences may still take
  };
  Counts counts() const;

 private:
  // A node is named by its page, so the table below owns all nodes; the root comes after the pages.
  using NodeId = int32_t;
  static constexpr NodeId kNoNode = -1;
  using EvictionKey = std::tuple<bool, absl::Time, uint64_t>;  // pinned, last use, serial
  struct Node {
    NodeId parent = kNoNode;  // kNoNode: the root, or not in the tree
    std::vector<NodeId> children;
    std::vector<TokenKey> keys;  // of the valid rows; fewer than a page: no children
    uint64_t image = 0;          // whose rows are in it or before it; 0: none
    int refs = 0;                // leases that run through it
    bool detached = false;       // was invalidated; the last lease frees the page
    absl::Time last_use = absl::InfinitePast();
    uint64_t serial = 0;
    std::optional<EvictionKey> eviction_key;  // set while in `evictable_`
  };
  // The full pages that `keys` run through and the page of which `partial_rows` > 0 more rows fit.
  struct PrefixMatch {
    std::vector<NodeId> path;
    NodeId partial = kNoNode;
    int partial_rows = 0;
  };

  PrefixMatch MatchPrefix(absl::Span<const TokenKey> keys) const;
  NodeId FindChild(NodeId parent, absl::Span<const TokenKey> keys, int* rows) const;
  NodeId FindEqualChild(NodeId parent, absl::Span<const TokenKey> keys) const;
  NodeId AddNode(NodeId parent, int32_t page);
  NodeId root() const { return options_.pages; }
  int PagesFor(int64_t rows) const;
  int32_t TakePage();
  void FreeNode(NodeId id);
  void Ref(NodeId id);
  void Unref(NodeId id, absl::Time now);
  void Evict(NodeId id);
  void Detach(NodeId id);
  void UpdateEvictable(NodeId id);

  const Options options_;
  std::vector<Node> nodes_;
  std::vector<int32_t> free_;
  std::map<const KvLease*, std::unique_ptr<KvLease>> leases_;
  std::map<EvictionKey, NodeId> evictable_;        // leaves without references
  std::map<uint64_t, std::set<NodeId>> by_image_;  // nodes in the tree of an image
  std::set<uint64_t> pinned_;
  int unreferenced_ = 0;  // nodes in the tree without references, leaves or not
  int reserved_ = 0;
  uint64_t next_serial_ = 0;
};

}  // namespace chord::llm_worker
