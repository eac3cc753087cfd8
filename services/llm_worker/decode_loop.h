// One thread that owns the language model: admits requests into KV slots and advances all of them
// together, step by step (continuous batching with chunked prefill; PlanStep decides what runs).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
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
#include "services/llm_worker/reservation.h"
#include "services/llm_worker/scheduler.h"

namespace chord::llm_worker {

struct DecodeResult {
  std::string text;                // special tokens removed
  std::vector<int32_t> ids;        // with the end token
  std::vector<int32_t> token_ends; // per token that has text: where it ends, in bytes
  std::vector<double> log_probabilities;  // of the same tokens, natural, before penalties
  std::optional<double> log_probability_empty;
  bool cut = false;                // max_new_tokens was reached
  int prompt_tokens = 0;
  int decode_steps = 0;            // steps after the one that gave the first token
  absl::Duration queue, wait_embeddings, prefill, ttft, decode;
};

struct DecodeJob {
  std::string request_id;
  model::EncodedPrompt prompt;
  int max_new_tokens = 0;
  std::shared_ptr<Reservation> ticket;  // its token cancels the request
  absl::Time received;
  // Both are called on the loop's thread and must not block. `on_end` is called exactly once, and
  // nothing of the job is called after it.
  std::function<void(std::string text)> on_delta;
  std::function<void(absl::StatusOr<DecodeResult>)> on_end;
};

class DecodeLoop {
 public:
  struct Options {
    int max_queue = 64;  // requests waiting for a slot
    StepLimits step;
    std::vector<int32_t> eos_token_ids;
    float repetition_penalty = 1.0f;
    int spatial_merge_size = 2;
    // Told of every error of the engine and of rows that are not finite; for the log.
    std::function<void(const std::string& request_id, const absl::Status&)> on_fault;
    // Told of each step: sequences that decoded, prompt tokens, duration; for the metrics.
    std::function<void(int decoding, int prompt_tokens, absl::Duration)> on_step;
  };
  // Not owned, must outlive the loop; nobody else calls model->Step while it lives.
  DecodeLoop(engine::LanguageModel* model, const model::Tokenizer* tokenizer, Options options);
  // Ends what is left with SHUTTING_DOWN.
  ~DecodeLoop();

  // OVERLOADED with a time to wait when all slots are taken and the queue is full. On an error the
  // job's callbacks are not called.
  absl::Status Submit(DecodeJob job);
  // Something a sequence waits for has changed: its rows are complete, or it was cancelled.
  void Wake();

  struct Counts {
    int running = 0;  // slots in use
    int queued = 0;
    int64_t tokens = 0;  // rows reserved by both: prompt and longest answer
  };
  Counts counts() const;

 private:
  struct Sequence;
  void Run();
  void Admit();
  void DropEnded();
  void TakeRows();
  bool RunStep();
  absl::Status RunChunks(absl::Span<const StepItem> items, std::vector<float>* logits);
  void Advance(Sequence& sequence, const StepItem& item, absl::Span<float> logits);
  void TakeToken(Sequence& sequence, absl::Span<float> logits);
  void End(Sequence& sequence, absl::StatusOr<DecodeResult> result);
  void WaitForWork();

  engine::LanguageModel* const model_;
  const model::Tokenizer* const tokenizer_;
  const Options options_;
  const ListFates list_fates_;

  // The loop thread's own.
  std::vector<std::unique_ptr<Sequence>> slots_;  // by slot; null: free
  int64_t next_order_ = 0;
  std::vector<float> logits_, penalised_;

  mutable absl::Mutex mu_;
  absl::CondVar changed_;
  std::vector<std::unique_ptr<Sequence>> queue_ ABSL_GUARDED_BY(mu_);  // oldest first
  bool woken_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  int running_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t tokens_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Duration mean_service_ ABSL_GUARDED_BY(mu_) = absl::Milliseconds(200);

  std::thread thread_;
};

}  // namespace chord::llm_worker
