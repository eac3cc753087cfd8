#include "services/llm_worker/kv_manager.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <utility>

namespace chord::llm_worker {
namespace {

int CommonPrefix(absl::Span<const TokenKey> a, absl::Span<const TokenKey> b) {
  const size_t n = std::min(a.size(), b.size());
  return static_cast<int>(std::mismatch(a.begin(), a.begin() + n, b.begin()).first - a.begin());
}

bool IsImageKey(TokenKey key) { return key >> 63 != 0; }

}  // namespace

struct KvLease {
  std::vector<TokenKey> keys;  // of all rows that are known
  int prompt_rows = 0;
  int max_pages = 0;
  uint64_t image = 0;
  int image_row = std::numeric_limits<int>::max();  // the first of its rows
  bool share = false;
  std::vector<int32_t> pages;
  size_t path = 0;        // leading pages that are full nodes of the tree, one reference each
  bool has_tail = false;  // the next page is a node that is not full yet; one reference
};

PagedKvManager::PagedKvManager(const Options& options)
    : options_(options), nodes_(static_cast<size_t>(options.pages) + 1) {
  free_.reserve(options.pages);
  for (int page = options.pages - 1; page >= 0; --page) free_.push_back(page);
}

PagedKvManager::~PagedKvManager() = default;

// Children are told apart by their keys; of several that begin alike, the one with the longest
// common part.
PagedKvManager::NodeId PagedKvManager::FindChild(NodeId parent, absl::Span<const TokenKey> keys,
                                                 int* rows) const {
  NodeId best = kNoNode;
  *rows = 0;
  for (const NodeId child : nodes_[parent].children) {
    const int common = CommonPrefix(nodes_[child].keys, keys);
    if (common > *rows) {
      best = child;
      *rows = common;
    }
  }
  return best;
}

PagedKvManager::PrefixMatch PagedKvManager::MatchPrefix(absl::Span<const TokenKey> keys) const {
  PrefixMatch out;
  for (NodeId at = root();;) {
    int rows;
    const NodeId child = FindChild(at, keys, &rows);
    if (child == kNoNode) return out;
    if (rows < options_.page_rows) {
      out.partial = child;
      out.partial_rows = rows;
      return out;
    }
    out.path.push_back(child);
    keys.remove_prefix(options_.page_rows);
    at = child;
  }
}

int PagedKvManager::MatchedPrefixLength(absl::Span<const TokenKey> prompt) const {
  if (prompt.empty()) return 0;
  const PrefixMatch match = MatchPrefix(prompt.subspan(0, prompt.size() - 1));
  return static_cast<int>(match.path.size()) * options_.page_rows + match.partial_rows;
}

int PagedKvManager::PagesFor(int64_t rows) const {
  return static_cast<int>((rows + options_.page_rows - 1) / options_.page_rows);
}

bool PagedKvManager::CanEverFit(int max_rows) const { return PagesFor(max_rows) <= options_.pages; }

std::optional<PagedKvManager::Admission> PagedKvManager::Admit(absl::Span<const TokenKey> prompt,
                                                               int max_rows, uint64_t image,
                                                               bool share, absl::Time now) {
  const int max_pages = PagesFor(max_rows);
  PrefixMatch match;
  if (!prompt.empty()) match = MatchPrefix(prompt.subspan(0, prompt.size() - 1));
  // Cached pages of the path can no longer be evicted for others.
  int newly_used = 0;
  for (const NodeId id : match.path) newly_used += nodes_[id].refs == 0;
  const int needed = max_pages - static_cast<int>(match.path.size());
  const int available = static_cast<int>(free_.size()) + unreferenced_ - newly_used;
  if (available - reserved_ < needed) return std::nullopt;
  // The source of the copy must outlive the taking of its target. Where it is the only page that
  // could be evicted, its rows are computed anew.
  if (match.partial != kNoNode && nodes_[match.partial].refs == 0 && available < 2) {
    match.partial = kNoNode;
    match.partial_rows = 0;
  }

  auto owned = std::make_unique<KvLease>();
  KvLease* lease = owned.get();
  lease->keys.assign(prompt.begin(), prompt.end());
  lease->prompt_rows = static_cast<int>(prompt.size());
  lease->max_pages = max_pages;
  lease->image = image;
  const auto first = std::find_if(prompt.begin(), prompt.end(), IsImageKey);
  if (first != prompt.end()) lease->image_row = static_cast<int>(first - prompt.begin());
  lease->share = share;
  for (const NodeId id : match.path) Ref(id);
  lease->pages = match.path;
  lease->path = match.path.size();
  reserved_ += needed;
  leases_.emplace(lease, std::move(owned));

  Admission out;
  out.lease = lease;
  out.cached_rows = static_cast<int>(match.path.size()) * options_.page_rows + match.partial_rows;
  if (match.partial != kNoNode) {
    Ref(match.partial);
    Pages(lease, out.cached_rows);
    out.copy = Copy{match.partial, lease->pages.back(), match.partial_rows};
    Unref(match.partial, now);
  }
  return out;
}

absl::Span<const int32_t> PagedKvManager::Pages(KvLease* lease, int rows) {
  const int wanted = PagesFor(rows);
  if (wanted > lease->max_pages) std::abort();  // would take what is reserved for others
  while (static_cast<int>(lease->pages.size()) < wanted) {
    lease->pages.push_back(TakePage());
    --reserved_;
  }
  return absl::MakeConstSpan(lease->pages).subspan(0, wanted);
}

int32_t PagedKvManager::TakePage() {
  if (free_.empty()) {
    if (evictable_.empty()) std::abort();  // reservations never exceed what there is
    Evict(evictable_.begin()->second);
  }
  const int32_t page = free_.back();
  free_.pop_back();
  return page;
}

void PagedKvManager::Append(KvLease* lease, absl::Span<const TokenKey> keys) {
  lease->keys.insert(lease->keys.end(), keys.begin(), keys.end());
}

PagedKvManager::NodeId PagedKvManager::FindEqualChild(NodeId parent,
                                                      absl::Span<const TokenKey> keys) const {
  for (const NodeId child : nodes_[parent].children) {
    if (absl::MakeConstSpan(nodes_[child].keys) == keys) return child;
  }
  return kNoNode;
}

PagedKvManager::NodeId PagedKvManager::AddNode(NodeId parent, int32_t page) {
  Node& node = nodes_[page];
  node = Node();
  node.parent = parent;
  node.refs = 1;
  node.serial = next_serial_++;
  nodes_[parent].children.push_back(page);
  UpdateEvictable(parent);
  return page;
}

// Page by page: the page at `path` becomes a node, grows until it is full, and the path goes on.
void PagedKvManager::InsertPrefix(KvLease* lease, int rows) {
  KvLease& l = *lease;
  rows = std::min(rows, static_cast<int>(l.keys.size()));
  while (l.share) {
    const NodeId parent = l.path == 0 ? root() : l.pages[l.path - 1];
    const int begin = static_cast<int>(l.path) * options_.page_rows;
    const int end = std::min(rows, begin + options_.page_rows);
    if (nodes_[parent].detached || (l.has_tail && nodes_[l.pages[l.path]].detached)) {
      l.share = false;  // the image was invalidated
      return;
    }
    if (end <= begin) return;
    const auto keys = absl::MakeConstSpan(l.keys).subspan(begin, end - begin);
    const bool full = end - begin == options_.page_rows;
    if (!l.has_tail) {
      // Another sequence may have inserted the same page before.
      const NodeId same = full ? FindEqualChild(parent, keys) : kNoNode;
      if (same != kNoNode) {
        Ref(same);
        free_.push_back(std::exchange(l.pages[l.path++], same));
        continue;
      }
      AddNode(parent, l.pages[l.path]);
      l.has_tail = true;
    }
    Node& tail = nodes_[l.pages[l.path]];
    tail.keys.assign(keys.begin(), keys.end());
    // Pages before the image belong to no image; the prefix makes a node the image's.
    if (tail.image == 0 && l.image_row < end) {
      tail.image = l.image;
      by_image_[l.image].insert(l.pages[l.path]);
    }
    if (!full) return;
    l.has_tail = false;
    ++l.path;
  }
}

void PagedKvManager::Release(KvLease* lease, absl::Time now) {
  const KvLease& l = *lease;
  const size_t nodes = l.path + (l.has_tail ? 1 : 0);
  for (size_t i = nodes; i < l.pages.size(); ++i) free_.push_back(l.pages[i]);
  reserved_ -= l.max_pages - static_cast<int>(l.pages.size());
  for (size_t i = nodes; i > 0; --i) Unref(l.pages[i - 1], now);  // children first
  leases_.erase(lease);
}

int PagedKvManager::SharedPromptRows(const KvLease& lease, absl::Span<const TokenKey> prompt) {
  if (!lease.share || prompt.empty()) return 0;
  return CommonPrefix(absl::MakeConstSpan(lease.keys).subspan(0, lease.prompt_rows),
                      prompt.subspan(0, prompt.size() - 1));
}

void PagedKvManager::Ref(NodeId id) {
  Node& node = nodes_[id];
  if (node.refs++ == 0 && !node.detached) --unreferenced_;
  UpdateEvictable(id);
}

void PagedKvManager::Unref(NodeId id, absl::Time now) {
  Node& node = nodes_[id];
  node.last_use = std::max(node.last_use, now);
  if (--node.refs > 0) return;
  if (node.detached) return FreeNode(id);
  ++unreferenced_;
  UpdateEvictable(id);
}

void PagedKvManager::UpdateEvictable(NodeId id) {
  Node& node = nodes_[id];
  if (id == root() || node.detached) return;
  if (node.eviction_key) {
    evictable_.erase(*node.eviction_key);
    node.eviction_key.reset();
  }
  if (node.refs > 0 || !node.children.empty()) return;
  node.eviction_key = {pinned_.count(node.image) > 0, node.last_use, node.serial};
  evictable_.emplace(*node.eviction_key, id);
}

void PagedKvManager::FreeNode(NodeId id) {
  nodes_[id] = Node();
  free_.push_back(id);
}

// REQUIRES: in the tree, no references, no children.
void PagedKvManager::Evict(NodeId id) {
  const NodeId parent = nodes_[id].parent;
  Detach(id);
  FreeNode(id);
  UpdateEvictable(parent);
}

void PagedKvManager::Detach(NodeId id) {
  Node& node = nodes_[id];
  if (node.eviction_key) {
    evictable_.erase(*node.eviction_key);
    node.eviction_key.reset();
  }
  if (node.refs == 0) --unreferenced_;
  if (auto it = by_image_.find(node.image); it != by_image_.end()) {
    it->second.erase(id);
    if (it->second.empty()) by_image_.erase(it);
  }
  auto& siblings = nodes_[node.parent].children;
  siblings.erase(std::find(siblings.begin(), siblings.end(), id));
  node.parent = kNoNode;
  node.detached = true;
}

void PagedKvManager::InvalidateImage(uint64_t image) {
  pinned_.erase(image);
  const auto found = by_image_.find(image);
  if (image == 0 || found == by_image_.end()) return;
  const std::set<NodeId> nodes = found->second;
  // Everything below an image's node has the image's id as well, so only parents outside remain.
  std::set<NodeId> parents;
  for (const NodeId id : nodes) {
    if (nodes.count(nodes_[id].parent) == 0) parents.insert(nodes_[id].parent);
    Detach(id);
  }
  for (const NodeId id : nodes) {
    if (nodes_[id].refs == 0) FreeNode(id);
  }
  for (const NodeId parent : parents) UpdateEvictable(parent);
}

void PagedKvManager::SetPinned(uint64_t image, bool pinned) {
  if (image == 0 || (pinned_.count(image) > 0) == pinned) return;
  if (pinned) {
    pinned_.insert(image);
  } else {
    pinned_.erase(image);
  }
  if (auto it = by_image_.find(image); it != by_image_.end()) {
    for (const NodeId id : it->second) UpdateEvictable(id);
  }
}

PagedKvManager::Counts PagedKvManager::counts() const {
  Counts out;
  out.capacity = options_.pages;
  out.free = static_cast<int>(free_.size());
  out.cached = unreferenced_;
  out.used = out.capacity - out.free - out.cached;
  out.reserved = reserved_;
  return out;
}

}  // namespace chord::llm_worker
