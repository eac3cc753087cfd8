#include "services/llm_worker/sequence.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/time/clock.h"

namespace chord::llm_worker {
namespace {

std::vector<int32_t> ImageRows(const model::EncodedPrompt& prompt) {
  std::vector<int32_t> out;
  if (prompt.images.empty()) return out;
  out.assign(prompt.ids.size(), -1);
  int32_t row = 0;
  for (const model::ImageSpan& span : prompt.images) {
    for (int64_t i = 0; i < span.tokens; ++i) out[span.begin + i] = row++;
  }
  return out;
}

int ImageEnd(const model::EncodedPrompt& prompt) {
  if (prompt.images.empty()) return 0;
  return static_cast<int>(prompt.images.back().begin + prompt.images.back().tokens);
}

}  // namespace

bool CanMove(SequencePhase from, SequencePhase to) {
  using P = SequencePhase;
  switch (to) {
    case P::kQueued:
      return false;
    case P::kAwaitingEmbeddings:
      return from == P::kQueued;
    case P::kPrefill:
      return from == P::kQueued || from == P::kAwaitingEmbeddings;
    case P::kDecode:
      return from == P::kPrefill;
    case P::kEnded:
      return from != P::kEnded;
  }
  return false;
}

absl::string_view SequencePhaseName(SequencePhase phase) {
  switch (phase) {
    case SequencePhase::kQueued:
      return "queued";
    case SequencePhase::kAwaitingEmbeddings:
      return "awaiting_embeddings";
    case SequencePhase::kPrefill:
      return "prefill";
    case SequencePhase::kDecode:
      return "decode";
    case SequencePhase::kEnded:
      return "ended";
  }
  return "unknown";
}

Sequence::Sequence(DecodeJob job, const Shared& shared)
    : job_(std::move(job)),
      token_(job_.ticket->token()),
      image_rows_(ImageRows(job_.prompt)),
      image_end_(ImageEnd(job_.prompt)),
      pipeline_(job_.sampling, shared.list_effects, shared.grammar, job_.grammar, job_.prompt.ids),
      answer_(shared.tokenizer, shared.eos_token_ids,
              {job_.max_new_tokens, job_.stop, job_.sampling.top_tokens > 0}),
      submitted_(absl::Now()),
      ready_(submitted_) {}

void Sequence::Move(SequencePhase to) {
  if (!CanMove(phase_, to)) std::abort();
  phase_ = to;
}

absl::Span<const TokenKey> Sequence::KeysFor(uint64_t image_id) {
  if (image_id == image_id_ && !keys_.empty()) return keys_;
  image_id_ = image_id;
  keys_.clear();
  keys_.reserve(job_.prompt.ids.size());
  for (size_t i = 0; i < job_.prompt.ids.size(); ++i) {
    const int32_t row = image_rows_.empty() ? -1 : image_rows_[i];
    keys_.push_back(row >= 0 ? ImageKey(image_id, row) : TextKey(job_.prompt.ids[i]));
  }
  return keys_;
}

absl::Status Sequence::Accept(std::optional<CacheTier> image, bool needs_embeddings) {
  accepted_ = true;
  return job_.on_accepted ? job_.on_accepted(image, needs_embeddings) : absl::OkStatus();
}

void Sequence::Admit(int64_t order, const PagedKvManager::Admission& admission,
                     std::shared_ptr<const engine::EmbeddingBuffer> cached_embeddings,
                     absl::Time now) {
  if (std::exchange(waiting_since_change_, 0) != 0) ready_ = now;
  keys_ = {};
  order_ = order;
  lease_ = admission.lease;
  cached_rows_ = kv_rows_ = admission.cached_rows;
  admitted_ = now;
  wait_embeddings_ = ready_ - submitted_;
  if (!has_image()) return Move(SequencePhase::kAwaitingEmbeddings);
  if (kv_rows_ >= image_end_) {
    image_tier_ = CacheTier::kKv;
  } else if (cached_embeddings != nullptr) {
    image_tier_ = CacheTier::kEmbeddings;
    embeddings_ = std::move(cached_embeddings);
  } else {
    image_tier_ = CacheTier::kNone;
    return Move(SequencePhase::kAwaitingEmbeddings);
  }
  Move(SequencePhase::kPrefill);
}

void Sequence::ReceiveEmbeddings(std::shared_ptr<const engine::EmbeddingBuffer> embeddings,
                                 absl::Time now) {
  embeddings_ = std::move(embeddings);
  wait_embeddings_ += now - admitted_;
  Move(SequencePhase::kPrefill);
}

SlotView Sequence::View() const {
  SlotView view;
  view.slot = slot_;
  view.order = order_;
  view.prompt_left = phase_ == SequencePhase::kDecode ? 0 : prompt_tokens() - kv_rows_;
  view.pending = static_cast<int>(pending_.size());
  view.draft_tokens =
      std::min(static_cast<int>(draft_.size()), job_.max_new_tokens - answer_.tokens() - 1);
  view.runnable = phase_ == SequencePhase::kPrefill || phase_ == SequencePhase::kDecode;
  return view;
}

bool Sequence::WantsLogits(const StepItem& item) const {
  return phase_ == SequencePhase::kDecode || kv_rows_ + item.tokens == prompt_tokens();
}

void Sequence::BeginStep(absl::Time now) {
  if (phase_ == SequencePhase::kPrefill && prefill_began_ == absl::Time()) prefill_began_ = now;
}

absl::StatusOr<bool> Sequence::Consume(const StepItem& item,
                                       absl::Span<const engine::SampledToken> sampled,
                                       absl::Time now) {
  kv_rows_ += item.tokens;
  pending_.clear();
  if (phase_ == SequencePhase::kDecode) {
    ++decode_steps_;
  } else {
    if (kv_rows_ >= image_end_) embeddings_ = nullptr;
    if (sampled.empty()) return false;
    first_token_ = now;
    Move(SequencePhase::kDecode);
  }
  const absl::StatusOr<bool> ended = AppendTokens(item, sampled);
  if (!ended.ok() || *ended) return ended;
  SendDelta();
  draft_ = pipeline_.Draft();
  return false;
}

// Draft tokens are confirmed one by one: what the model chooses at the row before one, or what the
// grammar jumps to, must be that token. The first that differs is where the next step begins.
absl::StatusOr<bool> Sequence::AppendTokens(const StepItem& item,
                                            absl::Span<const engine::SampledToken> sampled) {
  confirmed_ = 0;
  while (pending_.empty()) {
    const auto row = static_cast<size_t>(confirmed_);
    const absl::StatusOr<TokenPipeline::Choice> choice = pipeline_.Read(row, sampled[row]);
    if (!choice.ok()) return choice.status();
    if (choice->list_choice) answer_.AddListChoice(*choice->list_choice);
    answer_.SetAlternatives(choice->top);
    if (Append(item, choice->id, choice->log_probability, /*jump_forward=*/false)) return true;
    for (const int32_t id : pipeline_.JumpForward()) {
      if (Append(item, id, 0, /*jump_forward=*/true)) return true;
    }
  }
  return false;
}

bool Sequence::Append(const StepItem& item, int32_t id, double log_probability, bool jump_forward) {
  answer_.Append(id, log_probability, jump_forward);
  if (!answer_.IsEos(id)) pipeline_.Accept(id);
  if (answer_.ended()) return true;
  if (pending_.empty() && confirmed_ < item.draft_tokens &&
      draft_[static_cast<size_t>(confirmed_)] == id) {
    ++confirmed_;
    ++kv_rows_;  // the step has run it already
  } else {
    pending_.push_back(id);
  }
  return false;
}

void Sequence::SendDelta() {
  if (std::string text = answer_.TakeDelta(); !text.empty()) job_.on_delta(std::move(text));
}

DecodeResult Sequence::Finish(absl::Time now) {
  DecodeResult result =
      answer_.Finish(pipeline_.cursor(), pipeline_.first_list().log_probability_empty());
  SendDelta();
  result.image = image_tier_;
  result.prompt_tokens = prompt_tokens();
  result.cached_tokens = cached_rows_;
  result.decode_steps = decode_steps_;
  result.wait_embeddings = wait_embeddings_;
  result.queue = admitted_ - ready_;
  result.prefill = first_token_ - prefill_began_;
  result.ttft = first_token_ - job_.received;
  result.decode = now - first_token_;
  return result;
}

void Sequence::End(absl::StatusOr<DecodeResult> result) {
  Move(SequencePhase::kEnded);
  embeddings_ = nullptr;
  auto on_end = std::exchange(job_.on_end, nullptr);
  job_.on_delta = nullptr;
  job_.on_accepted = nullptr;
  on_end(std::move(result));
}

}  // namespace chord::llm_worker
