// The routes under /v1: OpenAI's chat completions and models, over the core.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/http/message.h"
#include "services/gateway/endpoint_deps.h"
#include "services/gateway/openai/chat_request.h"
#include "services/gateway/openai/completion.h"
#include "services/gateway/prompt.h"

namespace chord::gateway::openai {

// What the routes know of the model that is served.
struct Service {
  ModelCard model;
  std::string fingerprint;  // of the model's files
  PromptWrapper wrapper = PromptWrapper::kNone;
  ChatLimits limits;
};

// A request is answered under the limits of POST /api/ground: `body_limit` bytes of body, and the
// core's admission before the body is read.
std::vector<http::Route> Routes(const EndpointDeps& deps, const Service& service,
                                int64_t body_limit);

// Whether errors for `path` have OpenAI's form.
bool IsOpenAiPath(absl::string_view path);

}  // namespace chord::gateway::openai
