// Who owns which KV page: running sequences, and what is kept of earlier ones as a tree of
// prefixes. Integers only: no tensors, no threads, no clock (time comes in as an argument).
//
// A prompt is a list of symbols, one a KV row; equal lists have equal KV. A text token's symbol is
// its id, an image row's symbol is made of the image's number, which is given out once for each
// image and never again (image_cache.h), so that two images never share a row whatever their
// pixels hash to.
//
// The tree's nodes are pages. A page that is full is shared by all sequences whose symbols run
// through it; of a page that fits only in part, or is not full, a sequence gets a copy of the rows
// that fit (copy on write). Nodes nobody runs through are what is kept; they make room, least
// recently used first and pinned ones last, when a running sequence needs their page.
//
// A sequence is admitted only when the rows it may ever need can be had: its pages are promised
// then and taken when they are written to, so a sequence that runs never waits for memory and never
// has to be thrown out.
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

using KvSymbol = uint64_t;
inline KvSymbol TextSymbol(int32_t id) { return static_cast<uint32_t>(id); }
// Row `row` of image `number` (> 0).
inline KvSymbol ImageSymbol(uint64_t number, int32_t row) {
  return (number << 24 | static_cast<uint32_t>(row)) | KvSymbol{1} << 63;
}

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

  // Rows of `prompt` whose KV is kept. At most prompt.size() - 1: the last row is always computed,
  // since its logits are wanted.
  int Kept(absl::Span<const KvSymbol> prompt) const;

  // One running sequence. Made by Admit, ended by Release.
  struct Sequence;
  // The caller copies `rows` rows of page `from` to page `to` before the sequence's first step and
  // before anything else is asked of the planner.
  struct Copy {
    int32_t from = 0, to = 0;
    int rows = 0;
  };
  struct Admission {
    Sequence* sequence = nullptr;
    int kept_rows = 0;  // valid after the copy
    std::optional<Copy> copy;
  };
  // `max_rows` >= prompt.size(): all the rows the sequence may ever write. `image`: the number
  // that the prompt's image has, 0: none. `share`: whether its rows may be kept for others.
  // nullopt: does not fit now.
  std::optional<Admission> Admit(std::vector<KvSymbol> prompt, int max_rows, uint64_t image,
                                 bool share, absl::Time now);
  // Whether a sequence of so many rows fits when nothing else runs.
  bool CanEverFit(int max_rows) const;

  // The pages for rows [0, rows), taking what was promised. REQUIRES: rows <= max_rows.
  absl::Span<const int32_t> Pages(Sequence* sequence, int rows);
  // Symbols of rows after the prompt, as they become known.
  void Append(Sequence* sequence, absl::Span<const KvSymbol> symbols);
  // Rows [0, rows) are written and their symbols known: others may use them.
  void Publish(Sequence* sequence, int rows);
  // What was published stays, the rest is free.
  void Release(Sequence* sequence, absl::Time now);
  // Rows that `prompt` would share with what `sequence` is still going to publish.
  static int InPrompt(const Sequence& sequence, absl::Span<const KvSymbol> prompt);

  // Forgets all pages behind rows of that image; what a sequence runs through goes with it.
  void Forget(uint64_t image);
  void SetPinned(uint64_t image, bool pinned);
  bool Keeps(uint64_t image) const { return by_image_.count(image) > 0; }

  struct Counts {
    int capacity = 0;
    int used = 0;  // pages that running sequences run through
    int kept = 0;  // pages nobody runs through, kept for later ones
    int free = 0;
    int promised = 0;  // of kept and free, those that running sequences may still take
  };
  Counts counts() const;

 private:
  struct Node;
  using EvictionKey = std::tuple<bool, absl::Time, uint64_t>;  // pinned, last use, serial

  Node* Walk(absl::Span<const KvSymbol> symbols, std::vector<Node*>* path, int* partial) const;
  int32_t TakePage();
  void Ref(Node* node);
  void Unref(Node* node, absl::Time now);
  void Delete(Node* node);
  void Detach(Node* node);
  void UpdateEvictable(Node* node);

  const Options options_;
  std::unique_ptr<Node> root_;
  std::vector<int32_t> free_;
  std::map<const Sequence*, std::unique_ptr<Sequence>> sequences_;
  std::map<EvictionKey, Node*> evictable_;        // leaves without references
  std::map<uint64_t, std::set<Node*>> by_image_;  // attached nodes of an image
  std::set<uint64_t> pinned_;
  int unreferenced_ = 0;  // attached nodes without references, leaves or not
  int promised_ = 0;
  uint64_t next_serial_ = 0;
};

}  // namespace chord::llm_worker
