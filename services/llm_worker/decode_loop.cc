#include "services/llm_worker/decode_loop.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/cancel.h"
#include "common/base/errors.h"

namespace chord::llm_worker {
namespace {

bool AllFinite(absl::Span<const float> values) {
  constexpr uint32_t kExponent = 0x7F800000;
  bool bad = false;
  for (float value : values) bad |= (std::bit_cast<uint32_t>(value) & kExponent) == kExponent;
  return !bad;
}

// Row of the request's embeddings for each prompt token, or -1; empty without pictures.
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

}  // namespace

struct DecodeLoop::Sequence {
  Sequence(DecodeJob j, const model::Tokenizer* tokenizer, const ListFates* fates, int vocab_size)
      : job(std::move(j)),
        token(job.ticket->token()),
        image_rows(ImageRows(job.prompt)),
        seen(vocab_size),
        stream(tokenizer),
        first_list(fates),
        submitted(absl::Now()) {
    seen.Add(job.prompt.ids);
    result.prompt_tokens = prompt_tokens();
  }
  int prompt_tokens() const { return static_cast<int>(job.prompt.ids.size()); }
  int64_t reserved_tokens() const { return int64_t{prompt_tokens()} + job.max_new_tokens; }
  bool decoding() const { return !result.ids.empty(); }

  DecodeJob job;
  const CancelToken token;
  const std::vector<int32_t> image_rows;
  engine::SeenTokens seen;
  model::StreamDecoder stream;
  FirstList first_list;
  DecodeResult result;

  int slot = -1;
  int64_t order = 0;
  bool has_rows = false;  // the ticket is taken; `rows` is null without pictures
  std::unique_ptr<engine::EmbeddingBuffer> rows;
  int kv_rows = 0;
  bool ended = false;
  absl::Time submitted, admitted, rows_here, prefill_began, first_token;
  CancelToken::Registration wake;  // last: gone before anything it could touch
};

DecodeLoop::DecodeLoop(engine::LanguageModel* model, const model::Tokenizer* tokenizer,
                       Options options)
    : model_(model),
      tokenizer_(tokenizer),
      options_(std::move(options)),
      list_fates_(*tokenizer, model->vocab_size()),
      slots_(model->options().max_sequences) {
  thread_ = std::thread([this] { Run(); });
}

DecodeLoop::~DecodeLoop() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    changed_.Signal();
  }
  thread_.join();
}

absl::Status DecodeLoop::Submit(DecodeJob job) {
  auto sequence = std::make_unique<Sequence>(std::move(job), tokenizer_, &list_fates_,
                                             model_->vocab_size());
  sequence->wake = sequence->token.OnCancel([this] { Wake(); });
  absl::MutexLock lock(&mu_);
  if (stopping_) return errors::ShuttingDown();
  const int slots = static_cast<int>(slots_.size());
  const int queued = static_cast<int>(queue_.size());
  if (running_ + queued >= slots + options_.max_queue) {
    return errors::Overloaded(EstimateWait(queued, slots, mean_service_));
  }
  tokens_ += sequence->reserved_tokens();
  queue_.push_back(std::move(sequence));
  changed_.Signal();
  return absl::OkStatus();
}

void DecodeLoop::Wake() {
  absl::MutexLock lock(&mu_);
  woken_ = true;
  changed_.Signal();
}

DecodeLoop::Counts DecodeLoop::counts() const {
  absl::MutexLock lock(&mu_);
  return {running_, static_cast<int>(queue_.size()), tokens_};
}

void DecodeLoop::Run() {
  while (true) {
    {
      absl::MutexLock lock(&mu_);
      woken_ = false;  // whatever changed until here is seen by what follows
      if (stopping_) break;
    }
    DropEnded();
    Admit();
    TakeRows();
    if (!RunStep()) WaitForWork();
  }
  std::vector<std::unique_ptr<Sequence>> left;
  {
    absl::MutexLock lock(&mu_);
    left = std::move(queue_);
    queue_.clear();
  }
  for (auto& slot : slots_) {
    if (slot != nullptr) left.push_back(std::move(slot));
  }
  for (auto& sequence : left) {
    if (!sequence->ended) End(*sequence, errors::ShuttingDown());
  }
}

void DecodeLoop::WaitForWork() {
  absl::Time until = absl::Now() + absl::Seconds(1);
  for (const auto& sequence : slots_) {
    if (sequence != nullptr) until = std::min(until, sequence->token.deadline());
  }
  absl::MutexLock lock(&mu_);
  for (const auto& sequence : queue_) until = std::min(until, sequence->token.deadline());
  const bool free_slot = running_ < static_cast<int>(slots_.size());
  while (!woken_ && !stopping_ && (queue_.empty() || !free_slot)) {
    if (changed_.WaitWithDeadline(&mu_, until)) return;
  }
}

// Requests that were cancelled or ran out of time free their place before anything else happens.
void DecodeLoop::DropEnded() {
  std::vector<std::unique_ptr<Sequence>> ended;
  {
    absl::MutexLock lock(&mu_);
    for (auto it = queue_.begin(); it != queue_.end();) {
      if ((*it)->token.cancelled()) {
        ended.push_back(std::move(*it));
        it = queue_.erase(it);
      } else {
        ++it;
      }
    }
  }
  for (auto& slot : slots_) {
    if (slot == nullptr) continue;
    if (slot->ended || slot->token.cancelled()) ended.push_back(std::move(slot));
  }
  for (auto& sequence : ended) {
    if (!sequence->ended) End(*sequence, sequence->token.Check());
  }
}

void DecodeLoop::Admit() {
  for (size_t slot = 0; slot < slots_.size(); ++slot) {
    if (slots_[slot] != nullptr) continue;
    absl::MutexLock lock(&mu_);
    if (queue_.empty()) return;
    slots_[slot] = std::move(queue_.front());
    queue_.erase(queue_.begin());
    ++running_;
    Sequence& sequence = *slots_[slot];
    sequence.slot = static_cast<int>(slot);
    sequence.order = next_order_++;
    sequence.admitted = absl::Now();
    sequence.result.queue = sequence.admitted - sequence.submitted;
  }
}

void DecodeLoop::TakeRows() {
  for (auto& sequence : slots_) {
    if (sequence == nullptr || sequence->has_rows || !sequence->job.ticket->complete()) continue;
    sequence->rows = sequence->job.ticket->Take();
    sequence->has_rows = true;
    sequence->rows_here = absl::Now();
    sequence->result.wait_embeddings = sequence->rows_here - sequence->admitted;
  }
}

bool DecodeLoop::RunStep() {
  std::vector<SlotView> views;
  for (const auto& sequence : slots_) {
    if (sequence == nullptr) continue;
    const int left = sequence->decoding() ? 0 : sequence->prompt_tokens() - sequence->kv_rows;
    views.push_back({sequence->slot, sequence->order, left, sequence->has_rows});
  }
  const std::vector<StepItem> items = PlanStep(views, options_.step);
  if (items.empty()) return false;

  const absl::Time began = absl::Now();
  int decoding = 0, prompt_tokens = 0;
  for (const StepItem& item : items) {
    Sequence& sequence = *slots_[item.slot];
    (sequence.decoding() ? decoding : prompt_tokens) += item.tokens;
    if (sequence.kv_rows == 0) sequence.prefill_began = began;
  }

  const int vocab = model_->vocab_size();
  auto advance = [&](absl::Span<const StepItem> done) {
    size_t row = 0;
    for (const StepItem& item : done) {
      Sequence& sequence = *slots_[item.slot];
      const bool has_logits =
          sequence.decoding() || sequence.kv_rows + item.tokens == sequence.prompt_tokens();
      absl::Span<float> logits;
      if (has_logits) logits = absl::MakeSpan(logits_).subspan(row++ * vocab, vocab);
      Advance(sequence, item, logits);
    }
  };
  const absl::Status status = RunChunks(items, &logits_);
  if (status.ok()) {
    advance(items);
  } else {
    // One sequence may be what the engine cannot do; the others must not pay for it.
    for (const StepItem& item : items) {
      const absl::Status alone =
          items.size() == 1 ? status : RunChunks(absl::MakeConstSpan(&item, 1), &logits_);
      Sequence& sequence = *slots_[item.slot];
      if (alone.ok()) {
        advance(absl::MakeConstSpan(&item, 1));
      } else {
        if (options_.on_fault) options_.on_fault(sequence.job.request_id, alone);
        End(sequence, ForClient(alone));
      }
    }
  }
  if (options_.on_step) options_.on_step(decoding, prompt_tokens, absl::Now() - began);
  return true;
}

absl::Status DecodeLoop::RunChunks(absl::Span<const StepItem> items, std::vector<float>* logits) {
  std::vector<engine::LanguageModel::Chunk> chunks;
  std::vector<std::vector<int32_t>> positions(items.size());  // spans of the chunks point into it
  for (size_t i = 0; i < items.size(); ++i) {
    const Sequence& sequence = *slots_[items[i].slot];
    const model::EncodedPrompt& prompt = sequence.job.prompt;
    const size_t n = items[i].tokens;
    engine::LanguageModel::Chunk chunk;
    chunk.slot = items[i].slot;
    chunk.start = sequence.kv_rows;
    if (sequence.decoding()) {
      chunk.ids = absl::MakeConstSpan(&sequence.result.ids.back(), 1);
      const auto position = static_cast<int32_t>(sequence.kv_rows + prompt.rope_delta);
      positions[i].assign(3, position);
    } else {
      chunk.ids = absl::MakeConstSpan(prompt.ids).subspan(sequence.kv_rows, n);
      for (size_t axis = 0; axis < 3; ++axis) {
        const auto from = prompt.positions.begin() + axis * prompt.ids.size() + sequence.kv_rows;
        positions[i].insert(positions[i].end(), from, from + n);
      }
      if (!sequence.image_rows.empty()) {
        chunk.image_rows = absl::MakeConstSpan(sequence.image_rows).subspan(sequence.kv_rows, n);
        chunk.embeddings = sequence.rows.get();
      }
      if (chunk.start + items[i].tokens < sequence.prompt_tokens()) {
        chunk.logits = engine::LanguageModel::Chunk::Logits::kNone;
      }
    }
    chunk.positions = positions[i];
    chunks.push_back(chunk);
  }
  return model_->Step(chunks, logits);
}

void DecodeLoop::Advance(Sequence& sequence, const StepItem& item, absl::Span<float> logits) {
  sequence.kv_rows += item.tokens;
  if (sequence.kv_rows >= sequence.prompt_tokens()) sequence.rows = nullptr;
  if (!logits.empty()) TakeToken(sequence, logits);
}

void DecodeLoop::TakeToken(Sequence& sequence, absl::Span<float> logits) {
  DecodeResult& result = sequence.result;
  if (!AllFinite(logits)) {
    const auto status = absl::InternalError("logits are not finite");
    if (options_.on_fault) options_.on_fault(sequence.job.request_id, status);
    return End(sequence, errors::Internal());
  }
  int32_t id;
  if (options_.repetition_penalty == 1.0f) {
    id = engine::Argmax(logits);
  } else {
    penalised_.assign(logits.begin(), logits.end());
    engine::ApplyRepetitionPenalty(absl::MakeSpan(penalised_), sequence.seen,
                                   options_.repetition_penalty);
    id = engine::Argmax(penalised_);
  }
  sequence.seen.Add(id);
  sequence.first_list.Observe(logits, id);

  const absl::Time now = absl::Now();
  if (result.ids.empty()) {
    sequence.first_token = now;
    result.prefill = now - sequence.prefill_began;
    result.ttft = now - sequence.job.received;
  } else {
    ++result.decode_steps;
  }
  result.ids.push_back(id);
  const auto& eos = options_.eos_token_ids;
  const bool end = std::find(eos.begin(), eos.end(), id) != eos.end();
  if (!end) {
    std::string text = sequence.stream.Push(id);
    result.text += text;
    if (!tokenizer_->IsSpecial(id) && !tokenizer_->TokenBytes(id).empty()) {
      result.token_ends.push_back(static_cast<int32_t>(result.text.size()));
      result.log_probabilities.push_back(engine::LogProbability(logits, id));
    }
    if (!text.empty()) sequence.job.on_delta(std::move(text));
  }
  result.cut = !end && static_cast<int>(result.ids.size()) >= sequence.job.max_new_tokens;
  if (!end && !result.cut) return;

  if (std::string rest = sequence.stream.Finish(); !rest.empty()) {
    result.text += rest;
    if (!result.token_ends.empty()) {
      result.token_ends.back() = static_cast<int32_t>(result.text.size());
    }
    sequence.job.on_delta(std::move(rest));
  }
  result.log_probability_empty = sequence.first_list.log_probability_empty();
  result.decode = now - sequence.first_token;
  End(sequence, std::move(result));
}

// The place is counted free before the request hears of its end, so that whoever hears of it finds
// it free. DropEnded clears the slot itself.
void DecodeLoop::End(Sequence& sequence, absl::StatusOr<DecodeResult> result) {
  sequence.ended = true;
  sequence.rows = nullptr;
  {
    absl::MutexLock lock(&mu_);
    tokens_ -= sequence.reserved_tokens();
    if (sequence.slot >= 0) {
      --running_;
      mean_service_ = mean_service_ * 0.8 + (absl::Now() - sequence.admitted) * 0.2;
    }
  }
  auto on_end = std::exchange(sequence.job.on_end, nullptr);
  sequence.job.on_delta = nullptr;
  on_end(std::move(result));
}

}  // namespace chord::llm_worker
