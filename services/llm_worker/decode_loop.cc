#include "services/llm_worker/decode_loop.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/errors.h"

namespace chord::llm_worker {
DecodeLoop::DecodeLoop(engine::LanguageModel* model, const model::Tokenizer* tokenizer,
                       Options options)
    : model_(model),
      tokenizer_(tokenizer),
      options_(std::move(options)),
      list_effects_(*tokenizer, model->vocab_size()),
      slots_(options_.max_sequences),
      kv_({model->kv_pages(), engine::kKvPageTokens}),
      images_(options_.images) {
  PublishCounts();
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

void DecodeLoop::Run() {
  while (StartRound()) {
    EndCancelled();
    InvalidateImages();
    Admit();
    TakeEmbeddings();
    const bool ran = RunStep();
    PublishCounts();
    if (!ran) WaitForWork();
  }
  EndAll(errors::ShuttingDown());
}

bool DecodeLoop::RunStep() {
  const std::vector<StepItem> items = Plan();
  if (items.empty()) return false;
  const absl::Time began = absl::Now();
  int decoding = 0, prompt_tokens = 0;
  for (const StepItem& item : items) {
    Sequence& sequence = *slots_[item.slot];
    const bool decodes = sequence.phase() == SequencePhase::kDecode;
    (decodes ? decoding : prompt_tokens) += decodes ? 1 : item.tokens;
    sequence.BeginStep(began);
  }
  RunItems(items);
  if (options_.on_step) options_.on_step(decoding, prompt_tokens, absl::Now() - began);
  return true;
}

std::vector<StepItem> DecodeLoop::Plan() const {
  std::vector<SlotView> views;
  for (const auto& sequence : slots_) {
    if (sequence != nullptr && !sequence->ended()) views.push_back(sequence->View());
  }
  return PlanStep(views, options_.step);
}

// One sequence may be what the engine cannot do; the others must not fail with it, so after an
// error each runs alone.
void DecodeLoop::RunItems(absl::Span<const StepItem> items) {
  StepBatch batch;
  for (const StepItem& item : items) batch.Add(*slots_[item.slot], item, kv_);
  const absl::Status status = model_->StepAndSample(batch.chunks(), batch.specs(), &sampled_);
  if (status.ok()) return Consume(batch, items);
  if (items.size() == 1) return Fault(*slots_[items[0].slot], status);
  for (const StepItem& item : items) RunItems(absl::MakeConstSpan(&item, 1));
}

void DecodeLoop::Consume(const StepBatch& batch, absl::Span<const StepItem> items) {
  const absl::Time now = absl::Now();
  for (size_t i = 0; i < items.size(); ++i) {
    Sequence& sequence = *slots_[items[i].slot];
    const bool prefill = sequence.phase() == SequencePhase::kPrefill;
    const int prompt_rows = sequence.kv_rows() + items[i].tokens;
    const absl::StatusOr<bool> ended =
        sequence.Consume(items[i], batch.RowsOf<engine::SampledToken>(i, sampled_), now);
    if (prefill) {
      ++changes_;
      kv_.InsertPrefix(sequence.lease(), prompt_rows);
    }
    if (!ended.ok()) {
      Fault(sequence, ended.status());
    } else if (*ended) {
      Finish(sequence);
    }
  }
}

absl::Status DecodeLoop::Submit(DecodeJob job) {
  auto sequence = std::make_unique<Sequence>(
      std::move(job),
      Sequence::Shared{tokenizer_, &list_effects_, options_.grammar, options_.eos_token_ids});
  if (!kv_.CanEverFit(sequence->reserved_tokens())) {
    return errors::ContextLimit(sequence->reserved_tokens(),
                                int64_t{model_->kv_pages()} * engine::kKvPageTokens);
  }
  sequence->OnCancel([this] { Wake(); });
  absl::MutexLock lock(&mu_);
  if (stopping_) return errors::ShuttingDown();
  ArrivalFacts facts;
  facts.load = LoadWith(sequence->reserved_tokens());
  facts.max_queue = options_.max_queue;
  facts.until_deadline = sequence->token().deadline() - absl::Now();
  if (const auto retry = RejectOnArrival(facts)) return errors::Overloaded(*retry);
  tokens_ += sequence->reserved_tokens();
  queue_.push_back(std::move(sequence));
  woken_ = true;  // the loop may have looked at the queue already and not be waiting yet
  changed_.Signal();
  return absl::OkStatus();
}

Load DecodeLoop::LoadWith(int tokens) const {
  return {static_cast<int>(queue_.size()),
          running_,
          options_.max_sequences,
          mean_service_,
          tokens_ + tokens,
          int64_t{model_->kv_pages()} * engine::kKvPageTokens};
}

void DecodeLoop::Wake() {
  absl::MutexLock lock(&mu_);
  woken_ = true;
  changed_.Signal();
}

void DecodeLoop::DropImage(std::string key) {
  absl::MutexLock lock(&mu_);
  // More than the cache holds would only name images that are not there.
  if (dropped_keys_.size() < options_.images.max_images) dropped_keys_.push_back(std::move(key));
  woken_ = true;
  changed_.Signal();
}

DecodeLoop::Counts DecodeLoop::counts() const {
  absl::MutexLock lock(&mu_);
  Counts out = published_;
  out.running = running_;
  out.queued = static_cast<int>(queue_.size());
  out.oldest = queue_.empty() ? absl::ZeroDuration() : absl::Now() - queue_.front()->job().received;
  out.tokens = tokens_;
  return out;
}

void DecodeLoop::PublishCounts() {
  absl::MutexLock lock(&mu_);
  published_.kv = kv_.counts();
  published_.images = static_cast<int64_t>(images_.images());
  published_.image_bytes = images_.bytes();
}

// Everything that has changed up to here is seen by this round, so the wake-up is spent.
bool DecodeLoop::StartRound() {
  absl::MutexLock lock(&mu_);
  woken_ = false;
  return !stopping_;
}

// Nothing can run: every sequence waits for embeddings. A new request, embeddings, a cancellation
// or a deadline wakes the loop.
void DecodeLoop::WaitForWork() {
  absl::Time until = absl::Now() + options_.expiry_interval;
  for (const auto& sequence : slots_) {
    if (sequence == nullptr) continue;
    if (sequence->ended()) return;
    until = std::min(until, sequence->token().deadline());
  }
  absl::MutexLock lock(&mu_);
  for (const auto& sequence : queue_) until = std::min(until, sequence->token().deadline());
  while (!woken_ && !stopping_) {
    if (changed_.WaitWithDeadline(&mu_, until)) return;
  }
}

// Requests that were cancelled or ran out of time free their slot before anything else happens.
void DecodeLoop::EndCancelled() {
  std::vector<std::unique_ptr<Sequence>> ended;
  {
    absl::MutexLock lock(&mu_);
    for (auto it = queue_.begin(); it != queue_.end();) {
      if ((*it)->token().cancelled()) {
        ended.push_back(std::move(*it));
        it = queue_.erase(it);
      } else {
        ++it;
      }
    }
  }
  for (auto& slot : slots_) {
    if (slot == nullptr) continue;
    if (slot->ended() || slot->token().cancelled()) ended.push_back(std::move(slot));
  }
  for (auto& sequence : ended) {
    if (!sequence->ended()) End(*sequence, sequence->token().Check());
  }
}

void DecodeLoop::EndAll(const absl::Status& status) {
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
    if (!sequence->ended()) End(*sequence, status);
  }
}

void DecodeLoop::InvalidateImages() {
  std::vector<std::string> keys;
  {
    absl::MutexLock lock(&mu_);
    keys = std::exchange(dropped_keys_, {});
  }
  for (const std::string& key : keys) images_.Invalidate(key);
  if (const absl::Time now = absl::Now(); now >= next_expiry_) {
    images_.Expire(now);
    next_expiry_ = now + options_.expiry_interval;
  }
  InvalidateEvicted();
}

// KV is found by an image's id, so it goes with the image's entry.
void DecodeLoop::InvalidateEvicted() {
  for (const uint64_t image : images_.TakeEvicted()) {
    kv_.InvalidateImage(image);
    ++changes_;
  }
}

// First in, first out, with one exception: a sequence that waits for its image embeddings, or for
// another sequence's prefill of the same image, does not block the queue. A sequence that lacks KV
// memory does block it, so that long requests cannot starve.
void DecodeLoop::Admit() {
  pending_images_.clear();
  size_t position = 0;
  for (size_t slot = 0; slot < slots_.size();) {
    if (slots_[slot] != nullptr) {
      ++slot;
      continue;
    }
    std::unique_ptr<Sequence> next = NextCandidate(&position);
    if (next == nullptr) return;
    next->AssignSlot(static_cast<int>(slot));
    const Attempt attempt = TryAdmit(*next);
    if (attempt == Attempt::kAdmitted || attempt == Attempt::kEnded) {
      ++changes_;
      slots_[slot++] = std::move(next);
      continue;
    }
    if (attempt == Attempt::kWaitsForImage) next->WaitForImage(changes_);
    ReturnToQueue(std::move(next), position);
    if (attempt == Attempt::kLacksMemory) return;
    ++position;
  }
}

// Takes the next sequence out of the queue for which anything may have changed since its last
// attempt. Null at the end of the queue.
std::unique_ptr<Sequence> DecodeLoop::NextCandidate(size_t* position) {
  absl::MutexLock lock(&mu_);
  for (; *position < queue_.size(); ++*position) {
    const auto it = queue_.begin() + static_cast<ptrdiff_t>(*position);
    if ((*it)->waiting_since_change() == changes_ && !(*it)->job().ticket->complete()) {
      pending_images_.insert((*it)->image_id());
      continue;
    }
    std::unique_ptr<Sequence> out = std::move(*it);
    queue_.erase(it);
    ++running_;
    return out;
  }
  return nullptr;
}

void DecodeLoop::ReturnToQueue(std::unique_ptr<Sequence> sequence, size_t position) {
  sequence->AssignSlot(-1);
  absl::MutexLock lock(&mu_);
  --running_;
  queue_.insert(queue_.begin() + static_cast<ptrdiff_t>(position), std::move(sequence));
}

DecodeLoop::Attempt DecodeLoop::TryAdmit(Sequence& sequence) {
  const absl::Time now = absl::Now();
  // Without a key nothing cached can help; until the embeddings arrive there is nothing to look up.
  if (!sequence.cacheable() && !sequence.embeddings_arrived()) return WaitForEmbeddings(sequence);
  const uint64_t image = LookUpImage(sequence, now);
  const absl::Span<const TokenKey> keys = sequence.KeysFor(image);
  switch (DecideAdmission(FactsOf(sequence, keys))) {
    case Admission::kWaitForPeer:
      return Attempt::kWaitsForImage;
    case Admission::kWaitForEmbeddings:
      return WaitForEmbeddings(sequence);
    case Admission::kAdmit:
      break;
  }
  const auto admission =
      kv_.Admit(keys, sequence.reserved_tokens(), image, sequence.cacheable(), now);
  if (!admission) return Attempt::kLacksMemory;
  sequence.Admit(next_order_++, *admission,
                 sequence.cacheable() ? images_.Embeddings(image) : nullptr, now);
  return FinishAdmission(sequence, *admission);
}

// The id of the prompt's image, 0 without one. Looked up at each attempt: what was known may have
// been evicted while the request waited.
uint64_t DecodeLoop::LookUpImage(const Sequence& sequence, absl::Time now) {
  if (!sequence.has_image()) return 0;
  if (!sequence.cacheable()) {
    return sequence.image_id() != 0 ? sequence.image_id() : images_.NewId();
  }
  const DecodeJob& job = sequence.job();
  const uint64_t image = images_.Use(job.image.key, job.prompt.images.front().grid, job.image.pin,
                                     job.image.keep, now);
  InvalidateEvicted();
  kv_.SetPinned(image, job.image.pin);
  return image;
}

AdmissionFacts DecodeLoop::FactsOf(const Sequence& sequence,
                                   absl::Span<const TokenKey> keys) const {
  AdmissionFacts facts;
  facts.has_image = sequence.has_image();
  facts.cacheable = sequence.cacheable();
  facts.embeddings_arrived = sequence.embeddings_arrived();
  if (!facts.cacheable) return facts;
  facts.embeddings_cached = images_.Embeddings(sequence.image_id()) != nullptr;
  facts.image_end = sequence.image_end();
  facts.cached_rows = kv_.MatchedPrefixLength(keys);
  for (const auto& other : slots_) {
    if (other == nullptr) continue;
    const SequencePhase phase = other->phase();
    if (phase != SequencePhase::kAwaitingEmbeddings && phase != SequencePhase::kPrefill) continue;
    facts.peers.push_back({PagedKvManager::SharedPromptRows(*other->lease(), keys),
                           other->kv_rows(), phase == SequencePhase::kPrefill});
  }
  return facts;
}

// The first that waits for an image tells its client, and asks for the embeddings when none are
// expected.
DecodeLoop::Attempt DecodeLoop::WaitForEmbeddings(Sequence& sequence) {
  const bool first = !sequence.cacheable() || pending_images_.insert(sequence.image_id()).second;
  if (first && !sequence.accepted()) {
    const bool needs_embeddings = !sequence.push_expected();
    sequence.ExpectPush();
    if (auto status = sequence.Accept(CacheTier::kNone, needs_embeddings); !status.ok()) {
      End(sequence, status);
      return Attempt::kEnded;
    }
  }
  return Attempt::kWaitsForImage;
}

DecodeLoop::Attempt DecodeLoop::FinishAdmission(Sequence& sequence,
                                                const PagedKvManager::Admission& admission) {
  if (admission.copy) {
    const PagedKvManager::Copy& copy = *admission.copy;
    if (auto status = model_->CopyPage(copy.from, copy.to, copy.rows); !status.ok()) {
      Fault(sequence, status);
      return Attempt::kEnded;
    }
  }
  const bool waits = sequence.phase() == SequencePhase::kAwaitingEmbeddings;
  if (sequence.has_image() && !waits) {
    sequence.job().ticket->EmbeddingsNotNeeded(sequence.push_expected());
  }
  if (sequence.accepted()) return Attempt::kAdmitted;
  const bool needs_embeddings = sequence.has_image() && waits && !sequence.push_expected();
  if (auto status = sequence.Accept(sequence.image_tier(), needs_embeddings); !status.ok()) {
    End(sequence, status);
    return Attempt::kEnded;
  }
  return Attempt::kAdmitted;
}

void DecodeLoop::TakeEmbeddings() {
  for (auto& sequence : slots_) {
    if (sequence == nullptr || sequence->phase() != SequencePhase::kAwaitingEmbeddings) continue;
    const DecodeJob& job = sequence->job();
    auto taken = job.ticket->Take();
    if (!taken) continue;  // not here yet, or cancelled: then EndCancelled ends it
    std::shared_ptr<const engine::EmbeddingBuffer> embeddings = *std::move(taken);
    ++changes_;
    if (embeddings != nullptr && sequence->cacheable()) {
      const EmbeddingShape& shape = job.ticket->shape();
      images_.Store(sequence->image_id(), embeddings,
                    shape.rows * shape.width * model::SizeOf(model_->options().dtype));
    }
    sequence->ReceiveEmbeddings(std::move(embeddings), absl::Now());
  }
}

void DecodeLoop::Finish(Sequence& sequence) {
  DecodeResult result = sequence.Finish(absl::Now());
  // The conversation may go on: its next turn begins with all this.
  std::vector<TokenKey> keys;
  keys.reserve(result.ids.size());
  for (const int32_t id : result.ids) keys.push_back(TextKey(id));
  kv_.Append(sequence.lease(), keys);
  kv_.InsertPrefix(sequence.lease(), sequence.kv_rows());
  End(sequence, std::move(result));
}

// The engine failed, or its numbers are not finite: nothing of this request is cached for others.
void DecodeLoop::Fault(Sequence& sequence, const absl::Status& status) {
  if (options_.on_fault) options_.on_fault(sequence.job().request_id, status);
  images_.InvalidateId(sequence.image_id());
  InvalidateEvicted();
  End(sequence, ForClient(status));
}

// The slot and the pages are counted free before the request learns of its end, so that a client
// that comes back at once finds them free. EndCancelled clears the slot itself.
void DecodeLoop::End(Sequence& sequence, absl::StatusOr<DecodeResult> result) {
  ++changes_;
  const absl::Time now = absl::Now();
  const bool was_running = sequence.slot() >= 0;
  if (KvLease* lease = sequence.TakeLease()) kv_.Release(lease, now);
  PublishCounts();
  {
    absl::MutexLock lock(&mu_);
    tokens_ -= sequence.reserved_tokens();
    if (was_running) {
      --running_;
      if (result.ok()) {
        const absl::Duration took = now - sequence.admitted();
        mean_service_ =
            mean_service_ == absl::ZeroDuration() ? took : mean_service_ * 0.8 + took * 0.2;
      }
    }
  }
  sequence.End(std::move(result));
}

}  // namespace chord::llm_worker
