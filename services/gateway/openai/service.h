// The routes under /v1: OpenAI's chat completions and models, over the core.
#pragma once

#include <vector>

#include "common/http/message.h"
#include "common/obs/metrics.h"
#include "services/gateway/grounder.h"
#include "services/gateway/openai/completion.h"

namespace chord::gateway::openai {

// A request is answered under the limits of POST /api/ground: `body_limit` bytes of body, and the
// core's admission before the body is read. Everything must outlive the server that gets the
// routes.
std::vector<http::Route> Routes(Grounder& grounder, obs::Metrics& metrics, ModelCard model,
                                int64_t body_limit);

// Whether errors for `path` have OpenAI's form.
bool IsOpenAiPath(absl::string_view path);

}  // namespace chord::gateway::openai
