#include "services/llm_worker/grammar/vocabulary_trie.h"

#include <algorithm>

namespace chord::grammar {

VocabularyTrie::VocabularyTrie(std::vector<std::pair<absl::string_view, int32_t>> tokens) {
  std::sort(tokens.begin(), tokens.end());
  std::vector<uint32_t> path;  // nodes of the last token, by depth
  const auto close = [&](size_t depth) {
    for (; path.size() > depth; path.pop_back()) {
      nodes_[path.back()].next = static_cast<uint32_t>(nodes_.size());
    }
  };
  absl::string_view last;
  for (const auto& [bytes, id] : tokens) {
    const size_t length = std::min<size_t>(bytes.size(), UINT16_MAX);
    if (length < bytes.size()) continue;  // longer than anything the automaton takes
    size_t shared = 0;
    while (shared < path.size() && shared < length && bytes[shared] == last[shared]) ++shared;
    close(shared);
    for (size_t i = shared; i < length; ++i) {
      path.push_back(static_cast<uint32_t>(nodes_.size()));
      nodes_.push_back({0, static_cast<uint32_t>(ids_.size()), 0, static_cast<uint16_t>(i + 1),
                        static_cast<uint8_t>(bytes[i])});
    }
    ids_.push_back(id);
    ++nodes_[path.back()].ids;
    max_depth_ = std::max(max_depth_, length);
    last = bytes;
  }
  close(0);
}

int32_t VocabularyTrie::Find(absl::string_view bytes) const {
  size_t i = 0, end = nodes_.size();
  int32_t found = kNone;
  for (const char c : bytes) {
    while (i < end && nodes_[i].byte != static_cast<uint8_t>(c)) i = nodes_[i].next;
    if (i >= end) return kNone;
    found = static_cast<int32_t>(i);
    end = nodes_[i].next;
    ++i;
  }
  return found;
}

}  // namespace chord::grammar
