// A model's vocabulary as the grammar sees it: the bytes of each token, and all tokens as a trie.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/model/tokenizer.h"
#include "services/llm_worker/grammar/vocabulary_trie.h"

namespace chord::grammar {

// A set of token ids: bit i % 64 of word i / 64.
using TokenSet = std::vector<uint64_t>;
inline void Insert(TokenSet& set, int32_t id) {
  set[static_cast<size_t>(id) / 64] |= uint64_t{1} << (static_cast<size_t>(id) % 64);
}
// False for ids outside the set's words.
inline bool Contains(absl::Span<const uint64_t> set, int32_t id) {
  const size_t word = static_cast<size_t>(id) / 64;
  return word < set.size() && (set[word] >> (static_cast<size_t>(id) % 64) & 1) != 0;
}

// Immutable, thread-safe.
class Vocabulary {
 public:
  // `tokenizer` must outlive it. `size`: columns of the model's logits. CHECKPOINT_INVALID when the
  // two do not belong together, when there is no end token, or when a byte that the form is written
  // with has no token of its own.
  static absl::StatusOr<std::unique_ptr<const Vocabulary>> Create(const model::Tokenizer& tokenizer,
                                                                  int size,
                                                                  absl::Span<const int32_t> eos);

  const model::Tokenizer& tokenizer() const { return *tokenizer_; }
  const VocabularyTrie& trie() const { return trie_; }
  absl::Span<const int32_t> eos() const { return eos_; }
  bool IsEos(int32_t id) const;
  size_t words() const { return (static_cast<size_t>(size_) + 63) / 64; }  // of a TokenSet
  // The bytes by which an id moves the automaton; "" for those that never may.
  absl::string_view Bytes(int32_t id) const;

 private:
  Vocabulary(const model::Tokenizer* tokenizer, int size, absl::Span<const int32_t> eos)
      : tokenizer_(tokenizer), size_(size), eos_(eos.begin(), eos.end()) {}

  const model::Tokenizer* const tokenizer_;
  const int32_t size_;
  const std::vector<int32_t> eos_;
  VocabularyTrie trie_;
};

}  // namespace chord::grammar
