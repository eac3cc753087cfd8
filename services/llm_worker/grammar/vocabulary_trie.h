// The byte strings of a vocabulary as a trie, to find all tokens that an automaton takes in one
// walk.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace chord::grammar {

// Immutable after construction, thread-safe.
class VocabularyTrie {
 public:
  static constexpr int32_t kNone = -1;

  VocabularyTrie() = default;
  // Tokens with their ids; several ids may have the same bytes. Empty ones must not be among them.
  explicit VocabularyTrie(std::vector<std::pair<absl::string_view, int32_t>> tokens);

  // Tokens that end at this node.
  absl::Span<const int32_t> Tokens(int32_t node) const {
    return absl::MakeConstSpan(ids_).subspan(nodes_[Index(node)].ids_begin,
                                             nodes_[Index(node)].ids);
  }
  // All tokens that begin with the bytes of this node.
  absl::Span<const int32_t> TokensBelow(int32_t node) const {
    const size_t begin = nodes_[Index(node)].ids_begin, next = nodes_[Index(node)].next;
    const size_t end = next < nodes_.size() ? nodes_[next].ids_begin : ids_.size();
    return absl::MakeConstSpan(ids_).subspan(begin, end - begin);
  }
  // The node of these bytes, or kNone.
  int32_t Find(absl::string_view bytes) const;

  // Walks the bytes below `node` (kNone: all) in order, along copies of `state`: where
  // State::Step(byte) takes the byte, calls on_node(node, state after it), which says whether to go
  // deeper.
  template <typename State, typename OnNode>
  void Walk(const State& state, OnNode on_node, int32_t node = kNone) const {
    size_t i = node == kNone ? 0 : Index(node) + 1;
    const size_t end = node == kNone ? nodes_.size() : nodes_[Index(node)].next;
    const size_t base = node == kNone ? 0 : nodes_[Index(node)].depth;
    std::vector<State> states(max_depth_ + 1 - base, state);
    while (i < end) {
      const Node& n = nodes_[i];
      State& here = states[n.depth - base];
      here = states[n.depth - base - 1];
      i = here.Step(n.byte) && on_node(static_cast<int32_t>(i), here) ? i + 1 : n.next;
    }
  }

 private:
  struct Node {
    uint32_t next;       // the node after all that begin with this one's bytes
    uint32_t ids_begin;  // its tokens, then those below it, lie there in ids_
    uint16_t ids;
    uint16_t depth;  // bytes
    uint8_t byte;    // the last of them
  };
  static size_t Index(int32_t node) { return static_cast<size_t>(node); }

  std::vector<Node> nodes_;  // depth first, children by byte
  std::vector<int32_t> ids_;
  size_t max_depth_ = 0;
};

}  // namespace chord::grammar
