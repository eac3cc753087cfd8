// Any body as a chat request: either a request within its bounds, or a refusal of the catalogue
// whose parameter name shows nothing of the body but a plain name.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "common/base/errors.h"
#include "services/gateway/openai/chat_request.h"
#include "services/gateway/openai/error.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckRequest(const chord::gateway::openai::ChatRequest& request) {
  using chord::gateway::ChatTurn;
  Require(!request.turns.empty() && request.turns.size() <= 64);
  Require(request.turns.back().role == ChatTurn::Role::kUser);
  Require(request.image.empty() != request.image_id.empty());
  int images = 0;
  for (const ChatTurn& turn : request.turns) {
    Require(!turn.parts.empty() && turn.parts.size() <= 16);
    bool after_text = false;
    for (const auto& part : turn.parts) {
      images += part.image;
      Require(part.image || !after_text);
      after_text = !part.image;
    }
  }
  Require(images == 1 && request.stop.size() <= 4);
  Require(request.sampling.temperature >= 0 && request.sampling.temperature <= 2);
  Require(request.top_logprobs >= 0 && request.top_logprobs <= 20);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string body(reinterpret_cast<const char*>(data), size);
  const auto request = chord::gateway::openai::ParseChatRequest(body, {4096, 1024});
  if (request.ok()) {
    CheckRequest(*request);
    return 0;
  }
  Require(chord::IsCatalogued(request.status()));
  for (const char c : chord::gateway::openai::ParamOf(request.status())) {
    Require((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
            c == '_' || c == '.' || c == '[' || c == ']');
  }
  return 0;
}
