// A Decode request as plain data, and every check it must pass before anything is reserved for it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/engine/sampler.h"
#include "common/image/frame_plan.h"
#include "common/model/model_config.h"
#include "common/model/prompt.h"
#include "common/model/tokenizer.h"
#include "services/llm_worker/grammar/box_grammar.h"
#include "services/llm_worker/reservation.h"

namespace chord::llm_worker {

inline constexpr size_t kKeyBytes = 32;  // of an image's key: a SHA-256

struct DecodeInput {
  std::string ticket_id;
  std::string request_id;
  std::string model_fingerprint;
  std::vector<model::Message> messages;
  std::vector<image::FramePlan> images;
  int max_new_tokens = 0;
  bool grammar = false;
  engine::Randomness randomness;
  std::vector<std::string> stop;  // at most kMaxStops, of 1 – kMaxStopBytes bytes
  int top_tokens = 0;             // 0 – engine::kMaxTop
  // Of the images, one each; or none: nothing is cached or found, and their embeddings are on their
  // way.
  struct Use {
    std::string key;  // 32 bytes, or empty: nothing of the image may outlive the request
    bool pushed = true;
    bool pin = false;
    double keep_seconds = 0;  // 0 – 86,400; 0: the default
  };
  std::vector<Use> uses;
};

// What of the model decides whether a request fits. Views; the owner outlives them.
struct PromptFacts {
  const model::ModelConfig* config = nullptr;
  const model::Tokenizer* tokenizer = nullptr;
  const model::ChatTemplate* chat = nullptr;
  std::string fingerprint;
  int max_sequence_tokens = 0;  // prompt and answer
};

struct PreparedPrompt {
  model::EncodedPrompt prompt;
  EmbeddingShape embeddings;
  // Of the image; the text of the last user turn. Unset without an image.
  std::optional<grammar::BoxRequest> box_request;
};

// Pure. TICKET_UNKNOWN (no ticket's form), MODEL_MISMATCH, PARAMETER_INVALID, PROMPT_*,
// FRAME_MISMATCH, CONTEXT_TOO_LONG.
absl::StatusOr<PreparedPrompt> PreparePrompt(const DecodeInput& input, const PromptFacts& facts);

}  // namespace chord::llm_worker
