// What is answered under /v1: chat completions, their stream, the list of models. Pure.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "services/gateway/ground.h"
#include "services/gateway/openai/answer_schema.h"
#include "services/gateway/openai/chat_request.h"

namespace chord::gateway::openai {

// What every object of one completion carries.
struct CompletionHead {
  std::string id;       // "chatcmpl-" and the request's own id
  int64_t created = 0;  // Unix seconds
  std::string model;
  std::string fingerprint;  // of the model's files
};

// The whole completion. `chord` beside `choices` is the answer of POST /api/ground, with boxes and
// points in original pixels. The content is the model's own text, cut at a stop sequence, or what
// the request's schema asks for.
std::string CompletionJson(const CompletionHead& head, const ChatRequest& request,
                           const GroundResult& result);

// The pieces of a streamed completion, in order: Begin, Text or Object any number of times,
// Finish with the whole answer (finish_reason, log probabilities, `chord`), and Usage when the
// request asks for it. Each is one line of JSON; an empty one is not sent. Not thread-safe.
class ChunkWriter {
 public:
  ChunkWriter(CompletionHead head, const ChatRequest& request)
      : head_(std::move(head)), request_(request) {}

  std::string Begin();
  // Words of the model; empty under a schema, whose content is made of objects.
  std::string Text(absl::string_view delta);
  std::string Object(const GroundObject& object);
  std::vector<std::string> Finish(const GroundResult& result);
  std::string Usage(const GroundResult& result);

 private:
  nlohmann::ordered_json Chunk() const;
  std::string Content(absl::string_view text) const;

  const CompletionHead head_;
  const ChatRequest& request_;
  bool has_items_ = false;
};

// The end of a stream.
inline constexpr absl::string_view kDone = "[DONE]";

struct ModelCard {
  std::string name;
  int64_t created = 0;  // Unix seconds
  std::string fingerprint;
};
std::string ModelJson(const ModelCard& model);
std::string ModelListJson(const ModelCard& model);

}  // namespace chord::gateway::openai
