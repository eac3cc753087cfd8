// How probable it was that the model's first list is empty ("not there"), read off the answer while
// it is decoded. Works for any tokenizer: tokens are classified by their bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/engine/sampler.h"
#include "common/model/tokenizer.h"

namespace chord::llm_worker {

// What one more token does to the text's first JSON list. The list is opened by the first '[' and
// decided by the first byte after it that is not blank: ']' makes it empty, anything else not.
enum class ListEffect : uint8_t { kNone, kOpens, kEmpties, kFills };

// Pure; exposed for tests. `open`: a '[' has been written and only blanks since.
ListEffect ClassifyToken(absl::string_view bytes, bool open);

// The effects of a whole vocabulary. Immutable, shared by all sequences. 2.5 bytes an id.
class ListEffects {
 public:
  ListEffects(const model::Tokenizer& tokenizer, int vocab_size);

  ListEffect of(bool open, int32_t id) const { return by_state_[open ? 1 : 0].effects[id]; }
  engine::IdSet empties(bool open) const { return by_state_[open ? 1 : 0].empties; }
  engine::IdSet fills(bool open) const { return by_state_[open ? 1 : 0].fills; }

 private:
  struct State {
    std::vector<ListEffect> effects;
    std::vector<uint64_t> empties, fills;
  };
  State by_state_[2];
};

// One per sequence; copy it to look ahead. Follows the decoded path until the list is decided. At
// each step the probability mass of the tokens that would decide it, weighted by the path's
// probability, is added to its side. The result is log(empty / (empty + filled)): what neither
// empties nor fills counts on neither side.
class FirstList {
 public:
  explicit FirstList(const ListEffects* effects) : effects_(effects) {}  // not owned

  // False once the list is decided, or after kMaxSteps tokens: prose rarely opens a list later.
  bool undecided() const { return !decided_ && steps_ < kMaxSteps; }
  // The sets whose masses Observe wants for the next token.
  engine::IdSet empties() const { return effects_->empties(open_); }
  engine::IdSet fills() const { return effects_->fills(open_); }

  // The next token and the natural log masses of both sets in its distribution, raw, before any
  // penalty. Ignored when not undecided().
  void Observe(int32_t chosen, double log_probability, double log_empties, double log_fills);
  // Moves on without evidence.
  void Advance(int32_t chosen);

  // Unset while the list is not decided.
  std::optional<double> log_probability_empty() const;

 private:
  static constexpr int kMaxSteps = 64;

  const ListEffects* effects_;
  int steps_ = 0;
  bool open_ = false;
  bool decided_ = false;
  double log_path_ = 0;  // of the tokens taken so far
  double empty_ = 0, filled_ = 0;
};

}  // namespace chord::llm_worker
