#include "services/llm_worker/step_batch.h"

#include <utility>

namespace chord::llm_worker {

StepBatch::Inputs StepBatch::MakeInputs(const Sequence& sequence, const StepItem& item) {
  const model::EncodedPrompt& prompt = sequence.job().prompt;
  const auto start = static_cast<size_t>(sequence.kv_rows());
  const auto own = static_cast<size_t>(item.tokens);
  const size_t n = own + static_cast<size_t>(item.draft_tokens);
  Inputs out;
  if (sequence.phase() == SequencePhase::kDecode) {
    out.ids.assign(sequence.pending().begin(), sequence.pending().end());
  } else {
    out.ids.assign(prompt.ids.begin() + start, prompt.ids.begin() + start + own);
    if (sequence.has_image() && sequence.kv_rows() < sequence.image_end()) {
      const auto rows = sequence.image_rows().subspan(start, own);
      out.image_rows.assign(rows.begin(), rows.end());
      out.image_rows.resize(n, -1);
    }
  }
  const auto draft = sequence.draft().subspan(0, item.draft_tokens);
  out.ids.insert(out.ids.end(), draft.begin(), draft.end());
  out.positions.resize(3 * n);
  const size_t prompt_size = prompt.ids.size();
  for (size_t axis = 0; axis < 3; ++axis) {
    for (size_t k = 0; k < n; ++k) {
      const size_t index = start + k;
      out.positions[axis * n + k] =
          index < prompt_size
              ? prompt.positions[axis * prompt_size + index]
              : static_cast<int32_t>(static_cast<int64_t>(index) + prompt.rope_delta);
    }
  }
  return out;
}

void StepBatch::Add(Sequence& sequence, const StepItem& item, PagedKvManager& kv) {
  inputs_.push_back(MakeInputs(sequence, item));
  const Inputs& inputs = inputs_.back();
  engine::LanguageModel::Chunk chunk;
  chunk.start = sequence.kv_rows();
  chunk.pages = kv.Pages(sequence.lease(), chunk.start + item.tokens + item.draft_tokens);
  chunk.ids = inputs.ids;
  chunk.positions = inputs.positions;
  if (!inputs.image_rows.empty()) {
    chunk.image_rows = inputs.image_rows;
    chunk.embeddings = sequence.embeddings();
  }
  const bool wants_logits = sequence.WantsLogits(item);
  chunk.logits = wants_logits ? 1 + item.draft_tokens : 0;
  chunks_.push_back(chunk);
  first_row_.push_back(specs_.size());
  if (wants_logits) {
    sequence.pipeline().PrepareRows(sequence.draft().subspan(0, item.draft_tokens), &specs_);
  }
}

}  // namespace chord::llm_worker
