// One thread that owns the language model: admits requests into the paged KV memory and advances
// all of them together, step by step (continuous batching with chunked prefill). What runs is
// PlanStep's decision, who owns which page PagedKvManager's, what may come next BoxGrammar's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/engine/language_model.h"
#include "common/engine/sampler.h"
#include "common/model/prompt.h"
#include "common/model/tokenizer.h"
#include "services/llm_worker/first_list.h"
#include "services/llm_worker/grammar/box_grammar.h"
#include "services/llm_worker/image_cache.h"
#include "services/llm_worker/kv_manager.h"
#include "services/llm_worker/reservation.h"
#include "services/llm_worker/scheduler.h"

namespace chord::llm_worker {

// What served the image's share of the work.
enum class CacheTier { kNoImage, kRows, kEmbeddings, kKv };

// A place where the list could have ended or gone on.
struct ListChoice {
  int32_t offset = 0;  // bytes of the text before it
  double log_close = 0, log_more = 0;
};

struct DecodeResult {
  std::string text;                       // special tokens removed, but for markers of boxes
  std::vector<int32_t> ids;               // with the end token
  std::vector<int32_t> token_ends;        // per token that has text: where it ends, in bytes
  std::vector<double> log_probabilities;  // of the same tokens, natural, before penalty and mask
  std::vector<bool> forced;  // of the same tokens: appended unasked, their probability is 1
  std::vector<ListChoice> choices;
  std::optional<double> log_probability_empty;
  bool cut = false;      // max_new_tokens was reached
  bool grammar = false;  // decoded under the box grammar to its end
  CacheTier image = CacheTier::kNoImage;
  int prompt_tokens = 0;
  int cached_tokens = 0;           // of them, those whose KV was found
  int decode_steps = 0;            // steps after the one that gave the first token
  absl::Duration wait_embeddings;  // until its image was there
  absl::Duration queue;            // after that, until its admission
  absl::Duration prefill, ttft, decode;
};

// What may be kept of a request's image, and under which name.
struct ImageUse {
  std::string key;  // empty: nothing may outlive the request
  bool pin = false;
  absl::Duration keep;  // zero: the default
};

struct DecodeJob {
  std::string request_id;
  model::EncodedPrompt prompt;
  int max_new_tokens = 0;
  ImageUse image;
  // Rows are on their way. If not, they are asked for through `on_accepted` when nothing kept will
  // do.
  bool pushed = true;
  std::optional<grammar::BoxRequest> grammar;  // decode under the box grammar
  std::shared_ptr<Reservation> ticket;         // its token cancels the request
  absl::Time received;
  // All are called on the loop's thread and must not block. `on_accepted` is called once, unless
  // the request ends before: on admission, or as soon as it is known that rows are wanted. An error
  // of it ends the request. `on_end` is called exactly once, and nothing of the job is called after
  // it.
  std::function<absl::Status(CacheTier image, bool needs_rows)> on_accepted;
  std::function<void(std::string text)> on_delta;
  std::function<void(absl::StatusOr<DecodeResult>)> on_end;
};

class DecodeLoop {
 public:
  struct Options {
    int max_sequences = 16;  // advanced together
    int max_queue = 64;      // requests waiting to be admitted
    StepLimits step;
    std::vector<int32_t> eos_token_ids;
    float repetition_penalty = 1.0f;
    const grammar::BoxGrammar* grammar = nullptr;  // not owned; null: every answer is free text
    ImageCache::Options images;
    // Told of every error of the engine and of rows that are not finite; for the log.
    std::function<void(const std::string& request_id, const absl::Status&)> on_fault;
    // Told of each step: sequences that decoded, prompt tokens, duration; for the metrics.
    std::function<void(int decoding, int prompt_tokens, absl::Duration)> on_step;
  };
  // Not owned, must outlive the loop; nobody else calls model->Step while it lives.
  DecodeLoop(engine::LanguageModel* model, const model::Tokenizer* tokenizer, Options options);
  // Ends what is left with SHUTTING_DOWN.
  ~DecodeLoop();

  // OVERLOADED with a time to wait when the queue is full, or when the request could not be
  // answered before its deadline. On an error the job's callbacks are not called.
  absl::Status Submit(DecodeJob job);
  // Something a sequence waits for has changed: its rows are complete, or it was cancelled.
  void Wake();
  // Forgets what is kept of an image. Requests that use it now finish with it.
  void DropImage(std::string key);

  struct Counts {
    int running = 0;
    int queued = 0;
    int64_t tokens = 0;  // rows that both may need: prompt and longest answer
    PagedKvManager::Counts kv;
    int64_t images = 0;
    int64_t image_bytes = 0;
  };
  Counts counts() const;

 private:
  struct Sequence;
  void Run();
  void DropEnded();
  void DropImages();
  void ForgetGone();  // the KV of images that the table has let go
  void Admit();
  enum class Entry { kIn, kLater, kFull };
  Entry TryAdmit(Sequence& sequence);
  absl::Status Accept(Sequence& sequence, CacheTier image, bool needs_rows);
  void TakeRows();
  bool RunStep();
  absl::Status RunChunks(absl::Span<const StepItem> items, std::vector<float>* logits);
  void Advance(Sequence& sequence, const StepItem& item, absl::Span<float> logits);
  bool TakeToken(Sequence& sequence, absl::Span<float> logits);
  bool AppendToken(Sequence& sequence, int32_t id, bool forced, double log_probability);
  int32_t Choose(Sequence& sequence, absl::Span<const float> logits);
  void Finish(Sequence& sequence);
  void End(Sequence& sequence, absl::StatusOr<DecodeResult> result);
  void Fault(Sequence& sequence, const absl::Status& status);
  void Snapshot();
  void WaitForWork();
  Load LoadWith(int tokens) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  engine::LanguageModel* const model_;
  const model::Tokenizer* const tokenizer_;
  const Options options_;
  const ListFates list_fates_;

  // The loop thread's own.
  std::vector<std::unique_ptr<Sequence>> slots_;  // null: free
  PagedKvManager kv_;
  ImageCache images_;
  absl::Time next_expiry_ = absl::InfinitePast();
  int64_t next_order_ = 0;
  std::set<uint64_t> coming_;  // images whose rows requests in the line wait for
  // Grows with whatever may let a request go on that waits for an image and not for its own rows.
  uint64_t changes_ = 1;
  std::vector<float> logits_, penalised_;

  mutable absl::Mutex mu_;
  absl::CondVar changed_;
  std::vector<std::unique_ptr<Sequence>> queue_ ABSL_GUARDED_BY(mu_);  // oldest first
  std::vector<std::string> drops_ ABSL_GUARDED_BY(mu_);
  bool woken_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  int running_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t tokens_ ABSL_GUARDED_BY(mu_) = 0;
  Counts snapshot_ ABSL_GUARDED_BY(mu_);  // kv and images
  absl::Duration mean_service_ ABSL_GUARDED_BY(mu_) = absl::ZeroDuration();

  std::thread thread_;
};

}  // namespace chord::llm_worker
