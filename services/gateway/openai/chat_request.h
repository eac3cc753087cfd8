// POST /v1/chat/completions: the body -> a request of ours. Pure.
//
// What the service cannot do is refused by name (docs/openai_api.md has the whole list); a
// parameter that is null counts as absent.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/gateway/chat.h"
#include "services/gateway/openai/answer_schema.h"

namespace chord::gateway::openai {

struct ChatLimits {
  int64_t max_prompt_bytes = 0;  // of one user or system message
  int max_new_tokens = 0;
};

struct ChatRequest {
  std::string model;
  std::vector<ChatTurn> turns;      // 1 – 64, the last one a user's; exactly one image among them
  std::vector<std::string> labels;  // classes to look for; then the last turn has no text
  std::string image;                // the file's bytes; empty: `image_id`
  std::string image_id;             // of an image that the service keeps, from "chord:img_…"
  std::optional<int> max_tokens;
  Sampling sampling;
  bool has_seed = false;  // else the caller chooses one
  std::vector<std::string> stop;
  bool logprobs = false;
  int top_logprobs = 0;
  AnswerSchema schema;
  bool stream = false;
  bool include_usage = false;  // in the stream
};

// Every refusal names its parameter (error.h, ParamOf).
absl::StatusOr<ChatRequest> ParseChatRequest(const std::string& body, const ChatLimits& limits);

}  // namespace chord::gateway::openai
