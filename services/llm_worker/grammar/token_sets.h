// Which tokens may follow a state of the automaton, and which of them decide whether the list ends.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "services/llm_worker/grammar/box_automaton.h"
#include "services/llm_worker/grammar/vocabulary.h"

namespace chord::grammar {

struct TokenSets {
  TokenSet allowed;      // empty: every id (the answer has not begun the form, or has left it)
  TokenSet close, more;  // ids that end the list here and ids that go on; empty: no id decides
  bool decides() const { return !close.empty(); }
};

// Thread-safe. The sets of a state are computed once and cached, except inside numbers, where they
// depend on the digits and few tokens are possible. Bounded memory.
class TokenSetCache {
 public:
  explicit TokenSetCache(const Vocabulary* vocabulary);  // not owned; must outlive the cache

  // Never null; `allowed` is never without an id. Immutable and valid as long as it is held.
  std::shared_ptr<const TokenSets> Get(const BoxState& state) const;

 private:
  // Inside a label nearly the whole vocabulary is allowed, whatever the label. What does not depend
  // on the image's size is walked once, when the model is loaded.
  struct LabelSets {
    TokenSets sets;
    std::vector<int32_t> by_size;  // ids that reach into a number: to be checked for each size
  };
  static constexpr size_t kLabelSlots = 16;
  static bool HasLabelSlot(const BoxState& state);
  static size_t LabelSlot(const BoxState& state);

  void CompileLabels();
  TokenSets Walk(const BoxState& state) const;
  TokenSets InLabel(const BoxState& state) const;

  const Vocabulary* const vocabulary_;
  std::array<LabelSets, kLabelSlots> labels_;
  mutable absl::Mutex mu_;
  mutable absl::flat_hash_map<std::string, std::shared_ptr<const TokenSets>> cache_
      ABSL_GUARDED_BY(mu_);
  mutable size_t cached_words_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace chord::grammar
