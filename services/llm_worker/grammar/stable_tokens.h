// Tokenisations of structure that do not depend on what follows.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "services/llm_worker/grammar/box_automaton.h"
#include "services/llm_worker/grammar/vocabulary.h"

namespace chord::grammar {

// Thread-safe. Results are cached, bounded in number and length.
class StableTokens {
 public:
  explicit StableTokens(const Vocabulary* vocabulary) : vocabulary_(vocabulary) {}  // not owned

  // The first ids of `text` that stay the same whatever of the language follows it; ids are left
  // out from where a longer token could begin. `end` is the state after the text (its numbers do
  // not matter); `no_blank_next` tells that the blanks at its end are complete.
  std::vector<int32_t> Encode(absl::string_view text, const BoxState& end,
                              bool no_blank_next) const;

 private:
  std::vector<int32_t> Compute(absl::string_view text, const BoxState& end,
                               bool no_blank_next) const;

  const Vocabulary* const vocabulary_;
  mutable absl::Mutex mu_;
  mutable absl::flat_hash_map<std::string, std::vector<int32_t>> cache_ ABSL_GUARDED_BY(mu_);
};

}  // namespace chord::grammar
