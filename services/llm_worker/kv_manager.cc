#include "services/llm_worker/kv_manager.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <utility>

namespace chord::llm_worker {
namespace {

int CommonPrefix(absl::Span<const KvSymbol> a, absl::Span<const KvSymbol> b) {
  const size_t n = std::min(a.size(), b.size());
  return static_cast<int>(std::mismatch(a.begin(), a.begin() + n, b.begin()).first - a.begin());
}

bool IsImage(KvSymbol symbol) { return symbol >> 63 != 0; }

}  // namespace

// One page of the tree. Children are told apart by their symbols; of several that begin alike the
// one with the longest common part is used.
struct PagedKvManager::Node {
  Node* parent = nullptr;  // null: the root, or detached (then no new sequence comes here)
  std::vector<Node*> children;
  int32_t page = -1;
  std::vector<KvSymbol> symbols;  // rows that are valid; fewer than a page: no children
  uint64_t image = 0;
  int refs = 0;
  bool detached = false;
  absl::Time last_use = absl::InfinitePast();
  uint64_t serial = 0;
  bool in_evictable = false;
  EvictionKey key;
};

struct PagedKvManager::Sequence {
  std::vector<KvSymbol> symbols;  // of all rows that are known
  int prompt_rows = 0;
  int max_pages = 0;
  uint64_t image = 0;
  int image_row = std::numeric_limits<int>::max();  // the first of its rows
  bool share = false;
  std::vector<int32_t> pages;
  std::vector<Node*> path;  // full pages of the tree it runs through, one reference each
  Node* tail = nullptr;     // its own page after the path, published in part; one reference
};

PagedKvManager::PagedKvManager(const Options& options)
    : options_(options), root_(std::make_unique<Node>()) {
  free_.reserve(options.pages);
  for (int page = options.pages - 1; page >= 0; --page) free_.push_back(page);
}

PagedKvManager::~PagedKvManager() {
  for (const auto& [key, sequence] : sequences_) {
    for (Node* node : sequence->path) {
      if (node->detached && --node->refs == 0) delete node;
    }
    if (sequence->tail != nullptr && sequence->tail->detached) delete sequence->tail;
  }
  std::vector<Node*> left = root_->children;
  while (!left.empty()) {
    Node* node = left.back();
    left.pop_back();
    left.insert(left.end(), node->children.begin(), node->children.end());
    delete node;
  }
}

// Follows `symbols` through full pages. Returns the node of which `*partial` > 0 more rows fit, or
// null.
PagedKvManager::Node* PagedKvManager::Walk(absl::Span<const KvSymbol> symbols,
                                           std::vector<Node*>* path, int* partial) const {
  const size_t page_rows = options_.page_rows;
  const Node* at = root_.get();
  *partial = 0;
  while (true) {
    Node* best = nullptr;
    int best_rows = 0;
    for (Node* child : at->children) {
      const int rows = CommonPrefix(child->symbols, symbols);
      if (rows > best_rows) {
        best = child;
        best_rows = rows;
      }
    }
    if (best == nullptr) return nullptr;
    if (static_cast<size_t>(best_rows) == page_rows) {
      path->push_back(best);
      symbols.remove_prefix(page_rows);
      at = best;
      continue;
    }
    *partial = best_rows;
    return best;
  }
}

int PagedKvManager::Kept(absl::Span<const KvSymbol> prompt) const {
  if (prompt.empty()) return 0;
  std::vector<Node*> path;
  int partial;
  Walk(prompt.subspan(0, prompt.size() - 1), &path, &partial);
  return static_cast<int>(path.size()) * options_.page_rows + partial;
}

bool PagedKvManager::CanEverFit(int max_rows) const {
  return (int64_t{max_rows} + options_.page_rows - 1) / options_.page_rows <= options_.pages;
}

std::optional<PagedKvManager::Admission> PagedKvManager::Admit(std::vector<KvSymbol> prompt,
                                                               int max_rows, uint64_t image,
                                                               bool share, absl::Time now) {
  const int max_pages = (max_rows + options_.page_rows - 1) / options_.page_rows;
  std::vector<Node*> path;
  int partial = 0;
  Node* source = nullptr;
  if (!prompt.empty()) {
    source = Walk(absl::MakeConstSpan(prompt).subspan(0, prompt.size() - 1), &path, &partial);
  }
  // Pages of the path that nobody runs through yet can no longer make room for others.
  int newly_used = 0;
  for (const Node* node : path) newly_used += node->refs == 0;
  const int needed = max_pages - static_cast<int>(path.size());
  const int can_be_had = static_cast<int>(free_.size()) + unreferenced_ - newly_used;
  if (can_be_had - promised_ < needed) return std::nullopt;
  // The source of the copy must outlive the taking of its target. Where it is the only page that
  // could make room, its rows are computed anew.
  if (source != nullptr && source->refs == 0 && can_be_had < 2) {
    source = nullptr;
    partial = 0;
  }

  auto owned = std::make_unique<Sequence>();
  Sequence* sequence = owned.get();
  sequence->symbols = std::move(prompt);
  sequence->prompt_rows = static_cast<int>(sequence->symbols.size());
  sequence->max_pages = max_pages;
  sequence->image = image;
  const auto first = std::find_if(sequence->symbols.begin(), sequence->symbols.end(), IsImage);
  if (first != sequence->symbols.end()) {
    sequence->image_row = static_cast<int>(first - sequence->symbols.begin());
  }
  sequence->share = share;
  for (Node* node : path) {
    Ref(node);
    sequence->pages.push_back(node->page);
  }
  sequence->path = std::move(path);
  promised_ += needed;
  sequences_.emplace(sequence, std::move(owned));

  Admission out;
  out.sequence = sequence;
  out.kept_rows = static_cast<int>(sequence->path.size()) * options_.page_rows + partial;
  if (source != nullptr) {
    Ref(source);
    Pages(sequence, out.kept_rows);
    out.copy = Copy{source->page, sequence->pages.back(), partial};
    Unref(source, now);
  }
  return out;
}

absl::Span<const int32_t> PagedKvManager::Pages(Sequence* sequence, int rows) {
  const int wanted = (rows + options_.page_rows - 1) / options_.page_rows;
  if (wanted > sequence->max_pages) std::abort();  // would take what was promised to others
  while (static_cast<int>(sequence->pages.size()) < wanted) {
    sequence->pages.push_back(TakePage());
    --promised_;
  }
  return absl::MakeConstSpan(sequence->pages).subspan(0, wanted);
}

int32_t PagedKvManager::TakePage() {
  if (free_.empty()) {
    if (evictable_.empty()) std::abort();  // promises are never more than there is
    Delete(evictable_.begin()->second);
  }
  const int32_t page = free_.back();
  free_.pop_back();
  return page;
}

void PagedKvManager::Append(Sequence* sequence, absl::Span<const KvSymbol> symbols) {
  sequence->symbols.insert(sequence->symbols.end(), symbols.begin(), symbols.end());
}

void PagedKvManager::Publish(Sequence* sequence, int rows) {
  Sequence& s = *sequence;
  if (!s.share) return;
  rows = std::min(rows, static_cast<int>(s.symbols.size()));
  while (true) {
    Node* parent = s.path.empty() ? root_.get() : s.path.back();
    if (parent->detached) {
      s.share = false;
      return;
    }
    const int begin = static_cast<int>(s.path.size()) * options_.page_rows;
    const int end = std::min(rows, begin + options_.page_rows);
    if (end <= begin) return;
    const auto symbols = absl::MakeConstSpan(s.symbols).subspan(begin, end - begin);
    const bool full = end - begin == options_.page_rows;
    if (s.tail == nullptr) {
      Node* same = nullptr;  // another sequence was faster
      for (Node* child : parent->children) {
        if (full && absl::MakeConstSpan(child->symbols) == symbols) same = child;
      }
      if (same != nullptr) {
        Ref(same);
        free_.push_back(std::exchange(s.pages[s.path.size()], same->page));
        s.path.push_back(same);
        continue;
      }
      Node* node = new Node;
      node->parent = parent;
      node->page = s.pages[s.path.size()];
      node->refs = 1;
      node->serial = next_serial_++;
      parent->children.push_back(node);
      UpdateEvictable(parent);
      s.tail = node;
    }
    if (s.tail->detached) {
      s.share = false;
      return;
    }
    s.tail->symbols.assign(symbols.begin(), symbols.end());
    // Pages before the image are everybody's; it is the prefix that makes a node the image's.
    if (s.tail->image == 0 && s.image_row < end) {
      s.tail->image = s.image;
      by_image_[s.image].insert(s.tail);
    }
    if (!full) return;
    s.path.push_back(std::exchange(s.tail, nullptr));
  }
}

void PagedKvManager::Release(Sequence* sequence, absl::Time now) {
  Sequence& s = *sequence;
  const size_t published = s.path.size() + (s.tail != nullptr ? 1 : 0);
  for (size_t i = published; i < s.pages.size(); ++i) free_.push_back(s.pages[i]);
  promised_ -= s.max_pages - static_cast<int>(s.pages.size());
  if (s.tail != nullptr) Unref(s.tail, now);
  for (auto it = s.path.rbegin(); it != s.path.rend(); ++it) Unref(*it, now);
  sequences_.erase(sequence);
}

int PagedKvManager::InPrompt(const Sequence& sequence, absl::Span<const KvSymbol> prompt) {
  if (!sequence.share || prompt.empty()) return 0;
  return CommonPrefix(absl::MakeConstSpan(sequence.symbols).subspan(0, sequence.prompt_rows),
                      prompt.subspan(0, prompt.size() - 1));
}

void PagedKvManager::Ref(Node* node) {
  if (node->refs++ == 0 && !node->detached) --unreferenced_;
  UpdateEvictable(node);
}

void PagedKvManager::Unref(Node* node, absl::Time now) {
  node->last_use = std::max(node->last_use, now);
  if (--node->refs > 0) return;
  if (node->detached) {
    free_.push_back(node->page);
    delete node;
    return;
  }
  ++unreferenced_;
  UpdateEvictable(node);
}

void PagedKvManager::UpdateEvictable(Node* node) {
  if (node == root_.get() || node->detached) return;
  const bool should = node->refs == 0 && node->children.empty();
  if (node->in_evictable) {
    evictable_.erase(node->key);
    node->in_evictable = false;
  }
  if (!should) return;
  node->key = {pinned_.count(node->image) > 0, node->last_use, node->serial};
  node->in_evictable = evictable_.emplace(node->key, node).second;
}

// REQUIRES: attached, no references, no children.
void PagedKvManager::Delete(Node* node) {
  Node* parent = node->parent;
  Detach(node);
  free_.push_back(node->page);
  delete node;
  if (parent != nullptr) UpdateEvictable(parent);
}

void PagedKvManager::Detach(Node* node) {
  if (node->in_evictable) {
    evictable_.erase(node->key);
    node->in_evictable = false;
  }
  if (node->refs == 0) --unreferenced_;
  if (auto it = by_image_.find(node->image); it != by_image_.end()) {
    it->second.erase(node);
    if (it->second.empty()) by_image_.erase(it);
  }
  if (node->parent != nullptr) {
    auto& siblings = node->parent->children;
    siblings.erase(std::find(siblings.begin(), siblings.end(), node));
  }
  node->parent = nullptr;
  node->detached = true;
}

void PagedKvManager::Forget(uint64_t image) {
  pinned_.erase(image);
  auto found = by_image_.find(image);
  if (image == 0 || found == by_image_.end()) return;
  const std::set<Node*> nodes = found->second;
  std::set<Node*> parents;
  // All that hangs below an image's node has the image's number as well.
  for (Node* node : nodes) {
    if (node->parent != nullptr && nodes.count(node->parent) == 0) parents.insert(node->parent);
    Detach(node);
  }
  for (Node* node : nodes) {
    node->children.clear();
    if (node->refs > 0) continue;
    free_.push_back(node->page);
    delete node;
  }
  for (Node* parent : parents) UpdateEvictable(parent);
}

void PagedKvManager::SetPinned(uint64_t image, bool pinned) {
  if (image == 0 || (pinned_.count(image) > 0) == pinned) return;
  if (pinned) {
    pinned_.insert(image);
  } else {
    pinned_.erase(image);
  }
  if (auto it = by_image_.find(image); it != by_image_.end()) {
    for (Node* node : it->second) UpdateEvictable(node);
  }
}

PagedKvManager::Counts PagedKvManager::counts() const {
  Counts out;
  out.capacity = options_.pages;
  out.free = static_cast<int>(free_.size());
  out.kept = unreferenced_;
  out.used = out.capacity - out.free - out.kept;
  out.promised = promised_;
  return out;
}

}  // namespace chord::llm_worker
