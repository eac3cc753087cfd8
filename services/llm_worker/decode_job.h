// One request of the decode loop, and its result.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/cache_tier.h"
#include "common/base/list_choice.h"
#include "common/engine/sampler.h"
#include "common/model/prompt.h"
#include "services/llm_worker/grammar/box_grammar.h"
#include "services/llm_worker/reservation.h"

namespace chord::llm_worker {

// How the tokens of one request are chosen.
struct SamplingParams {
  // z < 0 ? z * penalty : z / penalty for the logit of every id that the prompt or the answer
  // already has.
  float repetition_penalty = 1.0f;
  engine::Randomness randomness;  // its index is the pipeline's
  int top_tokens = 0;             // the most probable ids that are reported at each place
};

// One of the most probable tokens at a place of the answer.
struct TokenAlternative {
  std::string bytes;  // may be part of a character
  double log_probability = 0;
};

struct DecodeResult {
  std::string text;                       // special tokens removed, but for markers of boxes
  std::vector<int32_t> ids;               // with the end token
  std::vector<int32_t> token_ends;        // per token that has text: where it ends, in bytes
  std::vector<double> log_probabilities;  // of the same tokens, natural, before penalty and mask
  std::vector<bool> jump_forward;         // of the same tokens: appended without asking the model
  // Of the same tokens, when `top_tokens` is set; empty for a token that the model was not asked
  // for.
  std::vector<std::vector<TokenAlternative>> top;
  std::vector<ListChoice> choices;
  std::optional<double> log_probability_empty;  // natural, of an empty first list
  bool truncated = false;          // max_new_tokens was reached before the answer was complete
  bool grammar = false;            // decoded under the box grammar to its end
  bool list_closed = false;        // under the grammar: the model wrote the end of the list
  std::optional<CacheTier> image;  // unset without an image
  int prompt_tokens = 0;
  int cached_tokens = 0;           // of them, those whose KV was found
  int decode_steps = 0;            // steps after the one that gave the first token
  absl::Duration wait_embeddings;  // until the embeddings were there
  absl::Duration queue;            // after that, until the admission
  absl::Duration prefill, ttft, decode;
};

// What may be cached of a request's image, and under which key.
struct ImageUse {
  std::string key;  // empty: nothing may outlive the request
  bool pin = false;
  absl::Duration keep;  // zero: the default
};

struct DecodeJob {
  std::string request_id;
  model::EncodedPrompt prompt;
  int max_new_tokens = 0;
  SamplingParams sampling;
  std::vector<std::string> stop;  // the answer ends before the first of these (stop_scan.h)
  ImageUse image;
  // Embeddings are on their way. If not, they are asked for through `on_accepted` when nothing that
  // is cached will do.
  bool push_expected = true;
  std::optional<grammar::BoxRequest> grammar;  // decode under the box grammar
  std::shared_ptr<Reservation> ticket;         // its token cancels the request
  absl::Time received;
  // All are called on the loop's thread and must not block. `on_accepted` is called once, unless
  // the request ends before: on admission, or as soon as it is known that embeddings are needed. An
  // error of it ends the request. `on_end` is called exactly once, and nothing of the job is called
  // after it.
  std::function<absl::Status(std::optional<CacheTier> image, bool needs_embeddings)> on_accepted;
  std::function<void(std::string text)> on_delta;
  std::function<void(absl::StatusOr<DecodeResult>)> on_end;
};

}  // namespace chord::llm_worker
