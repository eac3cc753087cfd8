// What a language worker has once its model is loaded, shared by its services. Immutable but for
// the parts that are thread-safe by themselves.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/engine/language_model.h"
#include "common/model/model_config.h"
#include "common/model/prompt.h"
#include "common/model/tokenizer.h"
#include "services/llm_worker/decode_input.h"
#include "services/llm_worker/decode_loop.h"

namespace chord::llm_worker {

// Bytes that requests under way may hold, taken before they are used. Thread-safe.
class ByteBudget {
 public:
  explicit ByteBudget(int64_t capacity) : capacity_(capacity) {}
  // Takes `bytes` when they fit or when nothing else is taken: what is larger than the whole
  // budget is served alone.
  bool TryTake(int64_t bytes) {
    absl::MutexLock lock(&mu_);
    if (taken_ > 0 && bytes > capacity_ - taken_) return false;
    taken_ += bytes;
    return true;
  }
  void Give(int64_t bytes) {
    absl::MutexLock lock(&mu_);
    taken_ -= bytes;
  }
  int64_t taken() const {
    absl::MutexLock lock(&mu_);
    return taken_;
  }

 private:
  const int64_t capacity_;
  mutable absl::Mutex mu_;
  int64_t taken_ ABSL_GUARDED_BY(mu_) = 0;
};

struct Core {
  Core(model::ModelConfig c, model::Tokenizer t, model::ChatTemplate chat_template)
      : config(std::move(c)), tokenizer(std::move(t)), chat(std::move(chat_template)) {}

  PromptFacts facts() const {
    return {&config, &tokenizer, &chat, fingerprint, max_sequence_tokens};
  }

  const model::ModelConfig config;
  const model::Tokenizer tokenizer;
  const model::ChatTemplate chat;
  std::string fingerprint;
  std::string device, dtype;  // as WorkerState shows them
  int max_sequences = 0;
  int max_sequence_tokens = 0;
  SamplingParams sampling;  // of the model's generation_config.json
  std::shared_ptr<const grammar::BoxGrammar> grammar;
  std::unique_ptr<engine::LanguageModel> model;
  std::unique_ptr<ByteBudget> embeddings;  // reserved or received, not yet prefilled
  std::unique_ptr<DecodeLoop> loop;        // last: its thread uses the rest
};

}  // namespace chord::llm_worker
