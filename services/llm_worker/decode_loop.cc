#include "services/llm_worker/decode_loop.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/cancel.h"
#include "common/base/errors.h"

namespace chord::llm_worker {
namespace {

constexpr absl::Duration kExpiryInterval = absl::Seconds(1);
// So many rows of a prompt that another request is about to compute are worth waiting for.
constexpr int kWorthWaiting = 2 * engine::kKvPageTokens;
// Of a probability that is as good as none; what is sent stays finite.
constexpr double kLeastLog = -100;

bool AllFinite(absl::Span<const float> values) {
  constexpr uint32_t kExponent = 0x7F800000;
  bool bad = false;
  for (float value : values) bad |= (std::bit_cast<uint32_t>(value) & kExponent) == kExponent;
  return !bad;
}

// Row of the request's embeddings for each prompt token, or -1; empty without images.
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
  Sequence(DecodeJob j, const model::Tokenizer* tokenizer, const ListFates* fates, int vocab_size,
           const grammar::BoxGrammar* grammar)
      : job(std::move(j)),
        token(job.ticket->token()),
        image_rows(ImageRows(job.prompt)),
        seen(vocab_size),
        stream(tokenizer),
        first_list(fates),
        ready(absl::Now()),
        submitted(ready) {
    seen.Add(job.prompt.ids);
    result.prompt_tokens = prompt_tokens();
    if (grammar != nullptr && job.grammar) {
      cursor.emplace(grammar, *job.grammar);
      guess = cursor->Guess();
    }
  }
  int prompt_tokens() const { return static_cast<int>(job.prompt.ids.size()); }
  int reserved_tokens() const { return prompt_tokens() + job.max_new_tokens; }
  // One past the last row of the images.
  int image_end() const {
    const auto& images = job.prompt.images;
    return images.empty() ? 0 : static_cast<int>(images.back().begin + images.back().tokens);
  }
  bool decoding() const { return !result.ids.empty(); }

  DecodeJob job;
  const CancelToken token;
  const std::vector<int32_t> image_rows;
  engine::SeenTokens seen;
  model::StreamDecoder stream;
  FirstList first_list;
  std::optional<grammar::BoxCursor> cursor;
  DecodeResult result;

  int slot = -1;
  int64_t order = 0;
  PagedKvManager::Sequence* kv = nullptr;  // from admission to end
  uint64_t image = 0;
  std::vector<KvSymbol> symbols;  // of the prompt, until admission
  bool has_rows = false;          // all that the prompt needs is here
  std::shared_ptr<const engine::EmbeddingBuffer> rows;
  int kv_rows = 0;               // valid ones
  std::vector<int32_t> pending;  // ids of the answer without KV yet
  std::vector<int32_t> guess;    // what may be tried after them
  std::string delta;             // text that the client has not been told
  bool accepted = false;         // the client was told what the image comes from
  uint64_t tried = 0;            // changes_ when it was found to wait for an image; 0: it does not
  bool ended = false;
  absl::Time ready;  // since when it waits for nothing but its admission
  absl::Time submitted, admitted, prefill_began, first_token;
  CancelToken::Registration wake;  // last: gone before anything it could touch
};

DecodeLoop::DecodeLoop(engine::LanguageModel* model, const model::Tokenizer* tokenizer,
                       Options options)
    : model_(model),
      tokenizer_(tokenizer),
      options_(std::move(options)),
      list_fates_(*tokenizer, model->vocab_size()),
      slots_(options_.max_sequences),
      kv_({model->kv_pages(), engine::kKvPageTokens}),
      images_(options_.images) {
  Snapshot();
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

// As it is for a request that may need so many tokens.
Load DecodeLoop::LoadWith(int tokens) const {
  return {static_cast<int>(queue_.size()),
          running_,
          options_.max_sequences,
          mean_service_,
          tokens_ + tokens,
          int64_t{model_->kv_pages()} * engine::kKvPageTokens};
}

absl::Status DecodeLoop::Submit(DecodeJob job) {
  auto sequence = std::make_unique<Sequence>(std::move(job), tokenizer_, &list_fates_,
                                             model_->vocab_size(), options_.grammar);
  if (!kv_.CanEverFit(sequence->reserved_tokens())) {
    return errors::ContextLimit(sequence->reserved_tokens(),
                                int64_t{model_->kv_pages()} * engine::kKvPageTokens);
  }
  sequence->wake = sequence->token.OnCancel([this] { Wake(); });
  absl::MutexLock lock(&mu_);
  if (stopping_) return errors::ShuttingDown();
  const Load load = LoadWith(sequence->reserved_tokens());
  if (running_ + load.queued >= options_.max_sequences + options_.max_queue) {
    return errors::Overloaded(RetryTime(load));
  }
  if (auto retry = TooLate(load, sequence->token.deadline() - sequence->submitted)) {
    return errors::Overloaded(*retry);
  }
  tokens_ += sequence->reserved_tokens();
  queue_.push_back(std::move(sequence));
  woken_ = true;  // the loop may have looked at the queue already and not have gone to sleep yet
  changed_.Signal();
  return absl::OkStatus();
}

void DecodeLoop::Wake() {
  absl::MutexLock lock(&mu_);
  woken_ = true;
  changed_.Signal();
}

void DecodeLoop::DropImage(std::string key) {
  absl::MutexLock lock(&mu_);
  // More than the table holds would only name images that are not there.
  if (drops_.size() < options_.images.max_images) drops_.push_back(std::move(key));
  woken_ = true;
  changed_.Signal();
}

DecodeLoop::Counts DecodeLoop::counts() const {
  absl::MutexLock lock(&mu_);
  Counts out = snapshot_;
  out.running = running_;
  out.queued = static_cast<int>(queue_.size());
  out.tokens = tokens_;
  return out;
}

void DecodeLoop::Snapshot() {
  absl::MutexLock lock(&mu_);
  snapshot_.kv = kv_.counts();
  snapshot_.images = static_cast<int64_t>(images_.images());
  snapshot_.image_bytes = images_.bytes();
}

void DecodeLoop::Run() {
  while (true) {
    {
      absl::MutexLock lock(&mu_);
      woken_ = false;  // whatever changed until here is seen by what follows
      if (stopping_) break;
    }
    DropEnded();
    DropImages();
    Admit();
    TakeRows();
    const bool ran = RunStep();
    Snapshot();
    if (!ran) WaitForWork();
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

// Nothing can run: every sequence waits for rows. A new request, rows, a cancel or a deadline
// wakes.
void DecodeLoop::WaitForWork() {
  absl::Time until = absl::Now() + kExpiryInterval;
  for (const auto& sequence : slots_) {
    if (sequence == nullptr) continue;
    if (sequence->ended) return;
    until = std::min(until, sequence->token.deadline());
  }
  absl::MutexLock lock(&mu_);
  for (const auto& sequence : queue_) until = std::min(until, sequence->token.deadline());
  while (!woken_ && !stopping_) {
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

void DecodeLoop::DropImages() {
  std::vector<std::string> drops;
  {
    absl::MutexLock lock(&mu_);
    drops = std::exchange(drops_, {});
  }
  for (const std::string& key : drops) images_.Drop(key);
  if (const absl::Time now = absl::Now(); now >= next_expiry_) {
    images_.Expire(now);
    next_expiry_ = now + kExpiryInterval;
  }
  ForgetGone();
}

void DecodeLoop::ForgetGone() {
  for (uint64_t number : images_.TakeGone()) {
    kv_.Forget(number);
    ++changes_;
  }
}

// In order of arrival. Who waits for an image lets others pass, whether its rows are on their way
// or another request is computing its KV: a place and memory are for those that can run, and a
// prompt about an image that is here must not stand behind the line of the vision worker. Who
// does not fit lets nobody pass, or a long request would never fit.
void DecodeLoop::Admit() {
  coming_.clear();
  size_t at = 0;
  for (size_t slot = 0; slot < slots_.size();) {
    if (slots_[slot] != nullptr) {
      ++slot;
      continue;
    }
    std::unique_ptr<Sequence> next;
    {
      absl::MutexLock lock(&mu_);
      if (at >= queue_.size()) return;
      const Sequence& waits = *queue_[at];
      if (waits.tried == changes_ && !waits.job.ticket->complete()) {
        coming_.insert(waits.image);
        ++at;
        continue;
      }
      next = std::move(queue_[at]);
      queue_.erase(queue_.begin() + at);
      ++running_;
    }
    next->slot = static_cast<int>(slot);
    const Entry entry = TryAdmit(*next);
    if (entry == Entry::kIn) {
      ++changes_;
      slots_[slot++] = std::move(next);
      continue;
    }
    next->slot = -1;
    if (entry == Entry::kLater) next->tried = changes_;
    absl::MutexLock lock(&mu_);
    --running_;
    queue_.insert(queue_.begin() + at, std::move(next));
    if (entry == Entry::kFull) return;
    ++at;
  }
}

DecodeLoop::Entry DecodeLoop::TryAdmit(Sequence& sequence) {
  const absl::Time now = absl::Now();
  DecodeJob& job = sequence.job;
  const bool has_image = !job.prompt.images.empty();
  const bool share = has_image && !job.image.key.empty();
  const bool has_come = !has_image || job.ticket->complete();
  // Waits in the line; the first for an image says that rows are wanted, or asks for them where
  // nobody has announced them.
  const auto wait_for_rows = [&](bool first) {
    if (first && !sequence.accepted) {
      const bool needs_rows = !std::exchange(job.pushed, true);
      if (auto status = Accept(sequence, CacheTier::kRows, needs_rows); !status.ok()) {
        End(sequence, status);
        return Entry::kIn;
      }
    }
    return Entry::kLater;
  };
  if (!has_come && !share) return wait_for_rows(true);  // nothing kept could do instead
  if (has_image) {
    // Looked up at each try: what was known may have gone while the request waited.
    const uint64_t number = share ? images_.Use(job.image.key, job.prompt.images.front().grid,
                                                job.image.pin, job.image.keep, now)
                            : sequence.image != 0 ? sequence.image
                                                  : images_.Nameless();
    ForgetGone();
    if (share) kv_.SetPinned(number, job.image.pin);
    if (number != sequence.image || sequence.symbols.empty()) {
      sequence.image = number;
      sequence.symbols.clear();
    }
  }
  if (sequence.symbols.empty()) {
    sequence.symbols.reserve(job.prompt.ids.size());
    for (size_t i = 0; i < job.prompt.ids.size(); ++i) {
      const int32_t row = sequence.image_rows.empty() ? -1 : sequence.image_rows[i];
      sequence.symbols.push_back(row >= 0 ? ImageSymbol(sequence.image, row)
                                          : TextSymbol(job.prompt.ids[i]));
    }
  }
  if (share) {
    const int kept = kv_.Kept(sequence.symbols);
    for (const auto& other : slots_) {
      if (other == nullptr || other->ended || other->decoding()) continue;
      const int shared = PagedKvManager::InPrompt(*other->kv, sequence.symbols);
      const bool brings_image = kept < sequence.image_end() && sequence.image_end() <= shared;
      // Who stands still for want of rows is waited for only by those that would want them as well.
      if (!other->has_rows && (!brings_image || job.ticket->complete())) continue;
      if (shared > other->kv_rows && (brings_image || shared >= kept + kWorthWaiting)) {
        return Entry::kLater;
      }
    }
    const bool is_kept =
        kept >= sequence.image_end() || images_.Embeddings(sequence.image) != nullptr;
    if (!is_kept && !has_come) return wait_for_rows(coming_.insert(sequence.image).second);
  }
  if (std::exchange(sequence.tried, 0) != 0) sequence.ready = now;
  auto admission =
      kv_.Admit(sequence.symbols, sequence.reserved_tokens(), sequence.image, share, now);
  if (!admission) return Entry::kFull;
  sequence.symbols = {};
  sequence.kv = admission->sequence;
  sequence.kv_rows = admission->kept_rows;
  sequence.order = next_order_++;
  sequence.admitted = now;
  DecodeResult& result = sequence.result;
  result.wait_embeddings = sequence.ready - sequence.submitted;
  result.queue = now - sequence.ready;
  result.cached_tokens = admission->kept_rows;
  if (admission->copy) {
    const PagedKvManager::Copy& copy = *admission->copy;
    if (auto status = model_->CopyPage(copy.from, copy.to, copy.rows); !status.ok()) {
      Fault(sequence, status);
      return Entry::kIn;
    }
  }
  if (has_image) {
    if (sequence.kv_rows >= sequence.image_end()) {
      result.image = CacheTier::kKv;
      sequence.has_rows = true;
    } else if (share && (sequence.rows = images_.Embeddings(sequence.image)) != nullptr) {
      result.image = CacheTier::kEmbeddings;
      sequence.has_rows = true;
    } else {
      result.image = CacheTier::kRows;
    }
  }
  if (sequence.has_rows) job.ticket->RowsNotNeeded(job.pushed);
  if (!sequence.accepted) {
    const bool needs_rows = result.image == CacheTier::kRows && !job.pushed;
    if (auto status = Accept(sequence, result.image, needs_rows); !status.ok()) {
      End(sequence, status);
    }
  }
  return Entry::kIn;
}

absl::Status DecodeLoop::Accept(Sequence& sequence, CacheTier image, bool needs_rows) {
  sequence.accepted = true;
  const auto& on_accepted = sequence.job.on_accepted;
  return on_accepted ? on_accepted(image, needs_rows) : absl::OkStatus();
}

void DecodeLoop::TakeRows() {
  for (auto& sequence : slots_) {
    if (sequence == nullptr || sequence->ended || sequence->has_rows) continue;
    auto rows = sequence->job.ticket->Take();
    if (!rows) continue;  // not here yet, or cancelled: then DropEnded ends it
    sequence->rows = *std::move(rows);
    ++changes_;
    sequence->has_rows = true;
    sequence->result.wait_embeddings += absl::Now() - sequence->admitted;
    if (sequence->rows != nullptr && !sequence->job.image.key.empty()) {
      const EmbeddingShape& shape = sequence->job.ticket->shape();
      images_.Keep(sequence->image, sequence->rows,
                   shape.rows * shape.width * model::SizeOf(model_->options().dtype));
    }
  }
}

bool DecodeLoop::RunStep() {
  std::vector<SlotView> views;
  for (const auto& sequence : slots_) {
    if (sequence == nullptr || sequence->ended) continue;
    SlotView view;
    view.slot = sequence->slot;
    view.order = sequence->order;
    view.prompt_left = sequence->decoding() ? 0 : sequence->prompt_tokens() - sequence->kv_rows;
    view.pending = static_cast<int>(sequence->pending.size());
    const int tokens = static_cast<int>(sequence->result.ids.size());
    view.guessed = std::min(static_cast<int>(sequence->guess.size()),
                            sequence->job.max_new_tokens - tokens - 1);
    view.runnable = sequence->has_rows;
    views.push_back(view);
  }
  const std::vector<StepItem> items = PlanStep(views, options_.step);
  if (items.empty()) return false;

  const absl::Time began = absl::Now();
  int decoding = 0, prompt_tokens = 0;
  for (const StepItem& item : items) {
    Sequence& sequence = *slots_[item.slot];
    if (sequence.decoding()) {
      ++decoding;
    } else {
      prompt_tokens += item.tokens;
      if (sequence.prefill_began == absl::Time()) sequence.prefill_began = began;
    }
  }

  const int vocab = model_->vocab_size();
  auto advance = [&](absl::Span<const StepItem> done) {
    size_t row = 0;
    for (const StepItem& item : done) {
      Sequence& sequence = *slots_[item.slot];
      const bool has_logits =
          sequence.decoding() || sequence.kv_rows + item.tokens == sequence.prompt_tokens();
      const size_t rows = has_logits ? 1 + item.guessed : 0;
      Advance(sequence, item, absl::MakeSpan(logits_).subspan(row * vocab, rows * vocab));
      row += rows;
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
      if (alone.ok()) {
        advance(absl::MakeConstSpan(&item, 1));
      } else {
        Fault(*slots_[item.slot], alone);
      }
    }
  }
  if (options_.on_step) options_.on_step(decoding, prompt_tokens, absl::Now() - began);
  return true;
}

absl::Status DecodeLoop::RunChunks(absl::Span<const StepItem> items, std::vector<float>* logits) {
  std::vector<engine::LanguageModel::Chunk> chunks;
  // What the chunks' spans point into.
  std::vector<std::vector<int32_t>> ids(items.size()), positions(items.size()),
      image_rows(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    const StepItem& item = items[i];
    const Sequence& sequence = *slots_[item.slot];
    const model::EncodedPrompt& prompt = sequence.job.prompt;
    const int start = sequence.kv_rows;
    const size_t n = item.tokens + item.guessed;
    engine::LanguageModel::Chunk chunk;
    chunk.start = start;
    chunk.pages = kv_.Pages(sequence.kv, start + static_cast<int>(n));
    positions[i].resize(3 * n);
    if (sequence.decoding()) {
      ids[i] = sequence.pending;
    } else {
      ids[i].assign(prompt.ids.begin() + start, prompt.ids.begin() + start + item.tokens);
      if (!sequence.image_rows.empty() && start < sequence.image_end()) {
        image_rows[i].assign(sequence.image_rows.begin() + start,
                             sequence.image_rows.begin() + start + item.tokens);
        image_rows[i].resize(n, -1);
        chunk.image_rows = image_rows[i];
        chunk.embeddings = sequence.rows.get();
      }
    }
    ids[i].insert(ids[i].end(), sequence.guess.begin(), sequence.guess.begin() + item.guessed);
    for (size_t axis = 0; axis < 3; ++axis) {
      for (size_t k = 0; k < n; ++k) {
        const size_t index = start + k;
        positions[i][axis * n + k] =
            index < prompt.ids.size()
                ? prompt.positions[axis * prompt.ids.size() + index]
                : static_cast<int32_t>(static_cast<int64_t>(index) + prompt.rope_delta);
      }
    }
    const bool has_logits = sequence.decoding() || start + item.tokens == sequence.prompt_tokens();
    chunk.logits = has_logits ? 1 + item.guessed : 0;
    chunk.ids = ids[i];
    chunk.positions = positions[i];
    chunks.push_back(chunk);
  }
  return model_->Step(chunks, logits);
}

// `logits`: the row after the item's own tokens, then one after each guessed one.
void DecodeLoop::Advance(Sequence& sequence, const StepItem& item, absl::Span<float> logits) {
  const bool was_decoding = sequence.decoding();
  sequence.kv_rows += item.tokens;
  sequence.pending.clear();
  if (!was_decoding) {
    ++changes_;
    kv_.Publish(sequence.kv, sequence.kv_rows);
    if (sequence.kv_rows >= sequence.image_end()) sequence.rows = nullptr;
  }
  if (logits.empty()) return;
  if (was_decoding) ++sequence.result.decode_steps;

  const size_t vocab = model_->vocab_size();
  int matched = 0;  // guessed tokens that turned out to be the answer's; their KV is valid
  const auto place = [&](int32_t id) {
    if (sequence.pending.empty() && matched < item.guessed && sequence.guess[matched] == id) {
      ++matched;
      ++sequence.kv_rows;
    } else {
      sequence.pending.push_back(id);
    }
  };
  while (sequence.pending.empty()) {
    if (!TakeToken(sequence, logits.subspan(matched * vocab, vocab))) return;
    place(sequence.result.ids.back());
    if (!sequence.cursor) continue;
    for (int32_t id : sequence.cursor->Forced()) {
      if (!AppendToken(sequence, id, /*forced=*/true, 0)) return;
      place(id);
    }
  }
  if (!sequence.delta.empty()) sequence.job.on_delta(std::exchange(sequence.delta, {}));
  sequence.guess.clear();
  if (sequence.cursor) sequence.guess = sequence.cursor->Guess();
}

int32_t DecodeLoop::Choose(Sequence& sequence, absl::Span<const float> logits) {
  absl::Span<const float> scores = logits;
  if (options_.repetition_penalty != 1.0f) {
    penalised_.assign(logits.begin(), logits.end());
    engine::ApplyRepetitionPenalty(absl::MakeSpan(penalised_), sequence.seen,
                                   options_.repetition_penalty);
    scores = penalised_;
  }
  if (sequence.cursor) {
    const absl::Span<const uint64_t> allowed = sequence.cursor->Allowed();
    if (!allowed.empty()) return engine::ArgmaxAllowed(scores, allowed);
  }
  return engine::Argmax(scores);
}

// False: the request has ended.
bool DecodeLoop::TakeToken(Sequence& sequence, absl::Span<float> logits) {
  DecodeResult& result = sequence.result;
  if (!AllFinite(logits)) {
    Fault(sequence, absl::InternalError("logits are not finite"));
    return false;
  }
  if (result.ids.empty()) {
    sequence.first_token = absl::Now();
    result.prefill = sequence.first_token - sequence.prefill_began;
    result.ttft = sequence.first_token - sequence.job.received;
  }
  const int32_t id = Choose(sequence, logits);
  if (id < 0) {
    Fault(sequence, absl::InternalError("the grammar leaves no token"));
    return false;
  }
  if (sequence.cursor) {
    if (const auto choice = sequence.cursor->ListChoice(logits, id)) {
      result.choices.push_back({static_cast<int32_t>(choice->offset),
                                std::max(choice->log_close, kLeastLog),
                                std::max(choice->log_more, kLeastLog)});
    }
  }
  sequence.first_list.Observe(logits, id);
  return AppendToken(sequence, id, /*forced=*/false, engine::LogProbability(logits, id));
}

// False: the request has ended.
bool DecodeLoop::AppendToken(Sequence& sequence, int32_t id, bool forced, double log_probability) {
  DecodeResult& result = sequence.result;
  sequence.seen.Add(id);
  result.ids.push_back(id);
  const auto& eos = options_.eos_token_ids;
  const bool end = std::find(eos.begin(), eos.end(), id) != eos.end();
  if (!end) {
    if (sequence.cursor) sequence.cursor->Accept(id);
    const std::string text = sequence.stream.Push(id);
    result.text += text;
    sequence.delta += text;
    const bool has_text = !tokenizer_->IsSpecial(id) || tokenizer_->IsAnswerMarker(id);
    if (has_text && !tokenizer_->TokenBytes(id).empty()) {
      result.token_ends.push_back(static_cast<int32_t>(result.text.size()));
      result.log_probabilities.push_back(log_probability);
      result.forced.push_back(forced);
    }
  }
  result.cut = !end && static_cast<int>(result.ids.size()) >= sequence.job.max_new_tokens;
  if (!end && !result.cut) return true;
  Finish(sequence);
  return false;
}

void DecodeLoop::Finish(Sequence& sequence) {
  DecodeResult& result = sequence.result;
  if (const std::string rest = sequence.stream.Finish(); !rest.empty()) {
    result.text += rest;
    sequence.delta += rest;
    if (!result.token_ends.empty()) {
      result.token_ends.back() = static_cast<int32_t>(result.text.size());
    }
  }
  if (!result.choices.empty()) {
    const double close = result.choices.front().log_close, more = result.choices.front().log_more;
    const double high = std::max(close, more);
    result.log_probability_empty =
        close - high - std::log(std::exp(close - high) + std::exp(more - high));
  } else {
    result.log_probability_empty = sequence.first_list.log_probability_empty();
  }
  result.grammar = sequence.cursor && sequence.cursor->inside();
  // A list that is closed lacks nothing but its fence and the end token.
  const bool cut_short = result.cut && result.grammar && !sequence.cursor->may_end();
  if (result.grammar && sequence.cursor->complete()) result.cut = false;
  if (cut_short) {
    // What follows the last whole box goes, and the list is closed in the answer's own style. The
    // client has seen those words in the stream; the answer itself is well-formed.
    const auto cut = sequence.cursor->CloseHere();
    const size_t keep = std::min(cut.keep_bytes, result.text.size());
    result.text.resize(keep);
    while (!result.token_ends.empty() && static_cast<size_t>(result.token_ends.back()) > keep) {
      result.token_ends.pop_back();
      result.log_probabilities.pop_back();
      result.forced.pop_back();
    }
    while (!result.choices.empty() && static_cast<size_t>(result.choices.back().offset) > keep) {
      result.choices.pop_back();
    }
    result.text += cut.close;
  }
  result.decode = absl::Now() - sequence.first_token;
  if (!sequence.delta.empty()) sequence.job.on_delta(std::exchange(sequence.delta, {}));
  // The conversation may go on: its next turn begins with all this.
  std::vector<KvSymbol> said;
  for (int32_t id : result.ids) said.push_back(TextSymbol(id));
  kv_.Append(sequence.kv, said);
  kv_.Publish(sequence.kv, sequence.kv_rows);
  End(sequence, std::move(result));
}

// The engine could not, or its numbers are no numbers: nothing of this request is kept for others.
void DecodeLoop::Fault(Sequence& sequence, const absl::Status& status) {
  if (options_.on_fault) options_.on_fault(sequence.job.request_id, status);
  images_.DropNumber(sequence.image);
  ForgetGone();
  End(sequence, ForClient(status));
}

// The place and the pages are counted free before the request hears of its end, so that whoever
// hears of it finds them free. DropEnded clears the slot itself.
void DecodeLoop::End(Sequence& sequence, absl::StatusOr<DecodeResult> result) {
  sequence.ended = true;
  ++changes_;
  sequence.rows = nullptr;
  const absl::Time now = absl::Now();
  if (sequence.kv != nullptr) kv_.Release(std::exchange(sequence.kv, nullptr), now);
  Snapshot();
  {
    absl::MutexLock lock(&mu_);
    tokens_ -= sequence.reserved_tokens();
    if (sequence.slot >= 0) {
      --running_;
      if (result.ok()) {
        const absl::Duration took = now - sequence.admitted;
        mean_service_ =
            mean_service_ == absl::ZeroDuration() ? took : mean_service_ * 0.8 + took * 0.2;
      }
    }
  }
  auto on_end = std::exchange(sequence.job.on_end, nullptr);
  sequence.job.on_delta = nullptr;
  sequence.job.on_accepted = nullptr;
  on_end(std::move(result));
}

}  // namespace chord::llm_worker
