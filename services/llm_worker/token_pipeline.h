// How the tokens of one sequence are chosen, and what is read off their distributions: repetition
// penalty, grammar mask, evidence. No logits come here: the engine applies the specs where its
// logits are, on the device if it has one (engine::LanguageModel::StepAndSample).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/list_choice.h"
#include "common/engine/sampler.h"
#include "services/llm_worker/decode_job.h"
#include "services/llm_worker/first_list.h"
#include "services/llm_worker/grammar/box_grammar.h"

namespace chord::llm_worker {

// Not thread-safe. One per sequence.
class TokenPipeline {
 public:
  // Nothing is owned; `grammar` null: free text. `prompt` counts as seen for the penalty.
  TokenPipeline(const SamplingParams& params, const ListEffects* effects,
                const grammar::BoxGrammar* grammar,
                const std::optional<grammar::BoxRequest>& request,
                absl::Span<const int32_t> prompt);

  // Appends the specs of 1 + draft.size() rows of logits: row 0 follows what was accepted so far,
  // row i the first i draft tokens as well. The specs point into this object and are valid until
  // the next call.
  void PrepareRows(absl::Span<const int32_t> draft, std::vector<engine::SampleSpec>* specs);

  struct Choice {
    int32_t id = 0;
    double log_probability = 0;  // natural, before penalty and mask
    std::optional<ListChoice> list_choice;
    std::vector<engine::TokenProbability> top;  // as many as SamplingParams::top_tokens
  };
  // Reads what the engine sampled for row `row` of the last PrepareRows. REQUIRES: exactly the
  // first `row` draft tokens were accepted since. INTERNAL when the logits were not finite or the
  // mask left no token.
  absl::StatusOr<Choice> Read(size_t row, const engine::SampledToken& sampled);
  void Accept(int32_t id);

  // See BoxCursor; empty in free text.
  std::vector<int32_t> JumpForward() const;
  std::vector<int32_t> Draft() const;

  const grammar::BoxCursor* cursor() const { return cursor_ ? &*cursor_ : nullptr; }
  const FirstList& first_list() const { return first_list_; }

 private:
  struct Row {
    std::shared_ptr<const grammar::TokenSets> sets;  // null: free text
    size_t seen = 0;                                 // ids of `penalized_` that count
    bool read = true;         // false: the draft token after it is a jump-forward token
    int32_t expected = -1;    // the draft token after it
    bool decides = false;     // masses of sets->close and sets->more come first
    bool first_list = false;  // then those of the first list
    std::vector<engine::IdSet> mass_sets;
  };
  static Row MakeRow(const grammar::BoxCursor* cursor, const FirstList& first_list);
  void AddSeen(int32_t id);

  const SamplingParams params_;
  std::optional<grammar::BoxCursor> cursor_;
  FirstList first_list_;
  absl::flat_hash_set<int32_t> seen_;  // empty without a penalty
  std::vector<int32_t> seen_order_;
  std::vector<int32_t> penalized_;  // seen_order_ and the draft tokens of the last PrepareRows
  std::vector<Row> rows_;
  uint64_t accepted_ = 0;  // tokens of the answer so far
};

}  // namespace chord::llm_worker
