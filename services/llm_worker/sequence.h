// One request inside the decode loop: its phase, its KV lease, its tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/base/cancel.h"
#include "common/engine/language_model.h"
#include "common/engine/sampler.h"
#include "common/model/tokenizer.h"
#include "services/llm_worker/decode_job.h"
#include "services/llm_worker/kv_manager.h"
#include "services/llm_worker/scheduler.h"
#include "services/llm_worker/text_builder.h"
#include "services/llm_worker/token_pipeline.h"

namespace chord::llm_worker {

//   kQueued ─► kAwaitingEmbeddings ─► kPrefill ─► kDecode
//      └──────────────────────────────────┘
// and from each of them kEnded.
enum class SequencePhase {
  kQueued,              // waits for a slot, for KV memory or for its image
  kAwaitingEmbeddings,  // has a slot and KV memory
  kPrefill,             // prompt tokens without KV are left
  kDecode,              // the first token was chosen
  kEnded,               // terminal: the job's on_end was called
};
bool CanMove(SequencePhase from, SequencePhase to);
absl::string_view SequencePhaseName(SequencePhase phase);

// Of the loop's thread alone, except for the constant parts. A transition that is not in the graph
// aborts.
class Sequence {
 public:
  struct Shared {  // not owned
    const model::Tokenizer* tokenizer = nullptr;
    const ListEffects* list_effects = nullptr;
    const grammar::BoxGrammar* grammar = nullptr;  // null: every answer is free text
    absl::Span<const int32_t> eos_token_ids;
  };
  Sequence(DecodeJob job, const Shared& shared);

  const DecodeJob& job() const { return job_; }
  const CancelToken& token() const { return token_; }
  SequencePhase phase() const { return phase_; }
  bool ended() const { return phase_ == SequencePhase::kEnded; }
  int prompt_tokens() const { return static_cast<int>(job_.prompt.ids.size()); }
  int reserved_tokens() const { return prompt_tokens() + job_.max_new_tokens; }
  bool has_image() const { return !job_.prompt.images.empty(); }
  bool cacheable() const { return has_image() && !job_.image.key.empty(); }
  int image_end() const { return image_end_; }  // one past the image's last prompt row, 0: no image
  bool embeddings_arrived() const { return !has_image() || job_.ticket->complete(); }
  // Runs `wake` when the request is cancelled.
  void OnCancel(std::function<void()> wake) { wake_ = token_.OnCancel(std::move(wake)); }

  bool push_expected() const { return job_.push_expected; }
  void ExpectPush() { job_.push_expected = true; }

  // The slot is held from before an attempt to admit the sequence; -1: none.
  int slot() const { return slot_; }
  void AssignSlot(int slot) { slot_ = slot; }

  // While queued. The image's id may change from one attempt to the next.
  uint64_t image_id() const { return image_id_; }
  absl::Span<const TokenKey> KeysFor(uint64_t image_id);
  // The loop's change counter when an attempt found that the image has to be waited for; 0: none.
  uint64_t waiting_since_change() const { return waiting_since_change_; }
  void WaitForImage(uint64_t change) { waiting_since_change_ = change; }
  // Calls on_accepted, once.
  bool accepted() const { return accepted_; }
  absl::Status Accept(std::optional<CacheTier> image, bool needs_embeddings);

  // kQueued -> kPrefill when the prompt's image is served from the KV cache or by
  // `cached_embeddings`; else -> kAwaitingEmbeddings, which a prompt without an image leaves at
  // once.
  void Admit(int64_t order, const PagedKvManager::Admission& admission,
             std::shared_ptr<const engine::EmbeddingBuffer> cached_embeddings, absl::Time now);
  // kAwaitingEmbeddings -> kPrefill.
  void ReceiveEmbeddings(std::shared_ptr<const engine::EmbeddingBuffer> embeddings, absl::Time now);

  KvLease* lease() const { return lease_; }
  KvLease* TakeLease() { return std::exchange(lease_, nullptr); }
  int kv_rows() const { return kv_rows_; }  // valid ones
  absl::Time admitted() const { return admitted_; }
  std::optional<CacheTier> image_tier() const { return image_tier_; }

  // In kPrefill and kDecode: what the scheduler decides on, and what a step's chunk is made of.
  SlotView View() const;
  absl::Span<const int32_t> pending() const { return pending_; }  // answer ids without KV
  absl::Span<const int32_t> draft() const { return draft_; }
  absl::Span<const int32_t> image_rows() const { return image_rows_; }
  const engine::EmbeddingBuffer* embeddings() const { return embeddings_.get(); }
  TokenPipeline& pipeline() { return pipeline_; }
  // Whether the chunk ends with rows of logits: those of a decoding sequence and the prompt's last.
  bool WantsLogits(const StepItem& item) const;
  void BeginStep(absl::Time now);

  // Takes the outcome of one step: `sampled` holds the row after the item's own tokens, then one
  // after each draft token, or nothing for a chunk inside the prompt. True when the answer has
  // ended. INTERNAL as in TokenPipeline::Read.
  absl::StatusOr<bool> Consume(const StepItem& item, absl::Span<const engine::SampledToken> sampled,
                               absl::Time now);
  // The result of an answer that has ended; the last text goes to on_delta first.
  DecodeResult Finish(absl::Time now);
  // Any phase -> kEnded: calls on_end.
  void End(absl::StatusOr<DecodeResult> result);
  const std::vector<int32_t>& answer_ids() const { return answer_.ids(); }

 private:
  void Move(SequencePhase to);
  // True when the answer has ended.
  bool Append(const StepItem& item, int32_t id, double log_probability, bool jump_forward);
  absl::StatusOr<bool> AppendTokens(const StepItem& item,
                                    absl::Span<const engine::SampledToken> sampled);
  void SendDelta();

  DecodeJob job_;
  const CancelToken token_;
  const std::vector<int32_t> image_rows_;  // embedding row of each prompt token or -1; or empty
  const int image_end_;
  TokenPipeline pipeline_;
  TextBuilder answer_;
  SequencePhase phase_ = SequencePhase::kQueued;

  uint64_t image_id_ = 0;
  std::vector<TokenKey> keys_;  // of the prompt, until admission
  uint64_t waiting_since_change_ = 0;
  bool accepted_ = false;

  int slot_ = -1;
  int64_t order_ = 0;
  KvLease* lease_ = nullptr;  // from admission to end
  std::shared_ptr<const engine::EmbeddingBuffer> embeddings_;
  std::optional<CacheTier> image_tier_;
  int cached_rows_ = 0;
  int kv_rows_ = 0;
  int confirmed_ = 0;  // draft tokens of the step under way that are the answer's
  std::vector<int32_t> pending_, draft_;
  int decode_steps_ = 0;

  absl::Time submitted_, ready_, admitted_, prefill_began_, first_token_;
  absl::Duration wait_embeddings_;
  CancelToken::Registration wake_;  // last: destroyed before what its callback could reach
};

}  // namespace chord::llm_worker
