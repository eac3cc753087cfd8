// One thread that owns the language model: admits requests into the paged KV memory and advances
// all of them together, step by step (continuous batching with chunked prefill). The decisions are
// made elsewhere: what may start in admission_policy, what runs in PlanStep, which sequence owns
// which page in PagedKvManager, which tokens may come in BoxGrammar.
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
#include "common/model/tokenizer.h"
#include "services/llm_worker/admission_policy.h"
#include "services/llm_worker/decode_job.h"
#include "services/llm_worker/first_list.h"
#include "services/llm_worker/grammar/box_grammar.h"
#include "services/llm_worker/image_cache.h"
#include "services/llm_worker/kv_manager.h"
#include "services/llm_worker/scheduler.h"
#include "services/llm_worker/sequence.h"
#include "services/llm_worker/step_batch.h"

namespace chord::llm_worker {

class DecodeLoop {
 public:
  struct Options {
    int max_sequences = 16;  // slots: sequences that are advanced together
    int max_queue = 64;      // requests waiting to be admitted
    StepLimits step;
    std::vector<int32_t> eos_token_ids;
    const grammar::BoxGrammar* grammar = nullptr;  // not owned; null: every answer is free text
    ImageCache::Options images;
    absl::Duration expiry_interval = absl::Seconds(1);  // between two looks for expired images
    // Called with every error of the engine and with logits that are not finite; for the log.
    std::function<void(const std::string& request_id, const absl::Status&)> on_fault;
    // Called after each step: sequences that decoded, prompt tokens, duration; for the metrics.
    std::function<void(int decoding, int prompt_tokens, absl::Duration)> on_step;
  };
  // Not owned, must outlive the loop; nothing else calls the model's Step while it lives.
  DecodeLoop(engine::LanguageModel* model, const model::Tokenizer* tokenizer, Options options);
  // Ends the requests that are left with SHUTTING_DOWN.
  ~DecodeLoop();

  // OVERLOADED with a time to wait when the queue is full, or when the request could not be
  // answered before its deadline. CONTEXT_LIMIT when it would never fit. On an error the job's
  // callbacks are not called. Thread-safe, as are the other public methods.
  absl::Status Submit(DecodeJob job);
  // Something a sequence waits for has changed: its embeddings are complete, or it was cancelled.
  void Wake();
  // Drops what is cached of an image. Requests that use it now finish with it.
  void DropImage(std::string key);

  struct Counts {
    int running = 0;
    int queued = 0;
    absl::Duration oldest;  // how long the first in the queue has waited; zero: none
    int64_t tokens = 0;     // that both may need: prompt and longest answer
    PagedKvManager::Counts kv;
    int64_t images = 0;
    int64_t image_bytes = 0;
  };
  Counts counts() const;

 private:
  // What became of an attempt to admit a queued sequence.
  enum class Attempt {
    kAdmitted,       // runs in its slot
    kEnded,          // with an error
    kWaitsForImage,  // does not block the queue
    kLacksMemory,    // blocks the queue
  };

  void Run();
  void EndCancelled();
  void InvalidateImages();
  void InvalidateEvicted();
  void Admit();
  std::unique_ptr<Sequence> NextCandidate(size_t* position);
  void ReturnToQueue(std::unique_ptr<Sequence> sequence, size_t position);
  Attempt TryAdmit(Sequence& sequence);
  uint64_t LookUpImage(const Sequence& sequence, absl::Time now);
  AdmissionFacts FactsOf(const Sequence& sequence, absl::Span<const TokenKey> keys) const;
  Attempt WaitForEmbeddings(Sequence& sequence);
  Attempt FinishAdmission(Sequence& sequence, const PagedKvManager::Admission& admission);
  void TakeEmbeddings();
  bool RunStep();
  std::vector<StepItem> Plan() const;
  void RunItems(absl::Span<const StepItem> items);
  void Consume(const StepBatch& batch, absl::Span<const StepItem> items);
  void Finish(Sequence& sequence);
  void Fault(Sequence& sequence, const absl::Status& status);
  void End(Sequence& sequence, absl::StatusOr<DecodeResult> result);
  void EndAll(const absl::Status& status);
  bool StartRound();
  void PublishCounts();
  void WaitForWork();
  Load LoadWith(int tokens) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  engine::LanguageModel* const model_;
  const model::Tokenizer* const tokenizer_;
  const Options options_;
  const ListEffects list_effects_;

  // Of the loop's thread.
  std::vector<std::unique_ptr<Sequence>> slots_;  // null: free
  PagedKvManager kv_;
  ImageCache images_;
  absl::Time next_expiry_ = absl::InfinitePast();
  int64_t next_order_ = 0;
  std::set<uint64_t> pending_images_;  // whose embeddings queued requests wait for
  // Grows with everything that may let a request go on that waits for an image and not for its own
  // embeddings.
  uint64_t changes_ = 1;
  std::vector<engine::SampledToken> sampled_;

  mutable absl::Mutex mu_;
  absl::CondVar changed_;
  std::vector<std::unique_ptr<Sequence>> queue_ ABSL_GUARDED_BY(mu_);  // oldest first
  std::vector<std::string> dropped_keys_ ABSL_GUARDED_BY(mu_);
  bool woken_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  int running_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t tokens_ ABSL_GUARDED_BY(mu_) = 0;
  Counts published_ ABSL_GUARDED_BY(mu_);  // kv and images
  absl::Duration mean_service_ ABSL_GUARDED_BY(mu_) = absl::ZeroDuration();

  std::thread thread_;
};

}  // namespace chord::llm_worker
