// Reads off how probable it was that the model's first list is empty ("nothing is there"), while
// it writes something else or exactly that. Works for any tokenizer: tokens are classed by bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "common/model/tokenizer.h"

namespace chord::llm_worker {

// What one more token does to the text's first JSON list. The list is opened by the first '[' and
// decided by the first byte after it that is not blank: ']' makes it empty, anything else not.
enum class ListFate : uint8_t { kUndecided, kOpened, kEmpty, kFilled };

// Pure; exposed for tests. `open`: a '[' has been written and nothing but blanks since.
ListFate ClassifyToken(absl::string_view bytes, bool open);

// The classes of a whole vocabulary. Immutable, shared by all sequences. 2 bytes an id.
class ListFates {
 public:
  ListFates(const model::Tokenizer& tokenizer, int vocab_size);
  absl::Span<const ListFate> of(bool open) const { return open ? after_ : before_; }

 private:
  std::vector<ListFate> before_, after_;
};

// One per sequence. Walks the greedy path until the list is decided; at each step the mass of the
// tokens that would have decided it, weighted by the path's probability, is added to its side.
// The answer is log(empty / (empty + filled)): what branches off to a third place counts nowhere.
class FirstList {
 public:
  explicit FirstList(const ListFates* fates) : fates_(fates) {}  // not owned

  // `logits`: raw, before any penalty. `chosen`: the token taken.
  void Observe(absl::Span<const float> logits, int32_t chosen);
  // Unset while the list is not decided.
  std::optional<double> log_probability_empty() const;

 private:
  static constexpr int kMaxSteps = 64;  // prose that never opens a list is not worth a pass a token

  const ListFates* fates_;
  int steps_ = 0;
  bool open_ = false;
  bool decided_ = false;
  double log_path_ = 0;  // of the tokens taken so far
  double empty_ = 0, filled_ = 0;
};

}  // namespace chord::llm_worker
