// The input of one step of the language model, built from sequences.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/types/span.h"
#include "common/engine/language_model.h"
#include "common/engine/sampler.h"
#include "services/llm_worker/kv_manager.h"
#include "services/llm_worker/scheduler.h"
#include "services/llm_worker/sequence.h"

namespace chord::llm_worker {

// Owns what the chunks point to. Valid until a sequence of it moves on.
class StepBatch {
 public:
  // Appends the item's chunk: a piece of the prompt or the pending tokens, then draft tokens. Takes
  // the pages that the rows need.
  void Add(Sequence& sequence, const StepItem& item, PagedKvManager& kv);

  absl::Span<const engine::LanguageModel::Chunk> chunks() const { return chunks_; }
  absl::Span<const engine::SampleSpec> specs() const { return specs_; }
  // Which of the step's sampled tokens belong to entry `index`, in order of Add.
  template <typename T>
  absl::Span<const T> RowsOf(size_t index, absl::Span<const T> rows) const {
    return rows.subspan(first_row_[index], chunks_[index].logits);
  }

 private:
  struct Inputs {
    std::vector<int32_t> ids, positions, image_rows;
  };
  static Inputs MakeInputs(const Sequence& sequence, const StepItem& item);

  std::deque<Inputs> inputs_;  // stable addresses
  std::vector<engine::LanguageModel::Chunk> chunks_;
  std::vector<engine::SampleSpec> specs_;
  std::vector<size_t> first_row_;
};

}  // namespace chord::llm_worker
