#include "services/gateway/openai/completion.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/api/answer_json.h"
#include "common/http/problem.h"
#include "services/gateway/grpc/proto_codec.h"

namespace chord::gateway::openai {

using OrderedJson = nlohmann::ordered_json;

namespace {

const char* FinishReason(const GroundResult& result) {
  return result.truncated ? "length" : "stop";
}

OrderedJson UsageOf(const GroundResult& result) {
  OrderedJson out;
  out["prompt_tokens"] = result.usage.prompt_tokens;
  out["completion_tokens"] = result.usage.completion_tokens;
  out["total_tokens"] = result.usage.prompt_tokens + result.usage.completion_tokens;
  out["prompt_tokens_details"] = {{"cached_tokens", result.usage.cached_tokens}};
  return out;
}

OrderedJson ChordOf(const GroundResult& result) { return api::AnswerObject(ToProto(result)); }

OrderedJson Bytes(absl::string_view text) {
  OrderedJson out = OrderedJson::array();
  for (const char c : text) out.push_back(static_cast<unsigned char>(c));
  return out;
}

OrderedJson TokenOf(absl::string_view text, double log_probability) {
  OrderedJson out;
  out["token"] = std::string(text);
  out["logprob"] = log_probability;
  out["bytes"] = Bytes(text);
  return out;
}

// null unless the request asked for log probabilities.
OrderedJson LogprobsOf(const ChatRequest& request, const GroundResult& result) {
  if (!request.logprobs) return nullptr;
  OrderedJson content = OrderedJson::array();
  for (const AnswerToken& token : result.tokens) {
    OrderedJson entry = TokenOf(token.text, token.log_probability);
    entry["top_logprobs"] = OrderedJson::array();
    for (const TokenAlternative& top : token.top) {
      entry["top_logprobs"].push_back(TokenOf(top.bytes, top.log_probability));
    }
    content.push_back(std::move(entry));
  }
  OrderedJson out;
  out["content"] = std::move(content);
  out["refusal"] = nullptr;
  return out;
}

std::string ContentOf(const ChatRequest& request, const GroundResult& result) {
  const AnswerSchema& schema = request.schema;
  if (schema.kind == AnswerSchema::Kind::kNone) return result.model_text;
  std::string out = ListBegin(schema);
  const auto add = [&](const auto& items) {
    for (size_t i = 0; i < items.size(); ++i) {
      absl::StrAppend(&out, i > 0 ? ", " : "", ListItem(schema, items[i]));
    }
  };
  if (schema.kind == AnswerSchema::Kind::kBoxes) {
    add(result.objects);
  } else {
    add(result.points);
  }
  return out + ListEnd(schema);
}

OrderedJson Head(const CompletionHead& head, const char* object) {
  OrderedJson out;
  out["id"] = head.id;
  out["object"] = object;
  out["created"] = head.created;
  out["model"] = head.model;
  out["system_fingerprint"] = absl::StrCat("fp_", head.fingerprint.substr(0, 12));
  return out;
}

OrderedJson CardOf(const ModelCard& model) {
  OrderedJson out;
  out["id"] = model.name;
  out["object"] = "model";
  out["created"] = model.created;
  out["owned_by"] = "chord";
  out["chord"] = {{"state", "serving"}, {"fingerprint", model.fingerprint}};
  return out;
}

}  // namespace

std::string CompletionJson(const CompletionHead& head, const ChatRequest& request,
                           const GroundResult& result) {
  OrderedJson message;
  message["role"] = "assistant";
  message["content"] = ContentOf(request, result);
  message["refusal"] = nullptr;
  OrderedJson choice;
  choice["index"] = 0;
  choice["message"] = std::move(message);
  choice["logprobs"] = LogprobsOf(request, result);
  choice["finish_reason"] = FinishReason(result);
  OrderedJson out = Head(head, "chat.completion");
  out["choices"] = OrderedJson::array({std::move(choice)});
  out["usage"] = UsageOf(result);
  out["chord"] = ChordOf(result);
  return http::Dump(out);
}

OrderedJson ChunkWriter::Chunk() const {
  OrderedJson out = Head(head_, "chat.completion.chunk");
  OrderedJson choice;
  choice["index"] = 0;
  choice["delta"] = OrderedJson::object();
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = nullptr;
  out["choices"] = OrderedJson::array({std::move(choice)});
  // With usage asked for, every chunk but the last says that it has none.
  if (request_.include_usage) out["usage"] = nullptr;
  return out;
}

std::string ChunkWriter::Content(absl::string_view text) const {
  OrderedJson out = Chunk();
  out["choices"][0]["delta"]["content"] = std::string(text);
  return http::Dump(out);
}

std::string ChunkWriter::Begin() {
  OrderedJson out = Chunk();
  out["choices"][0]["delta"] = {
      {"role", "assistant"},
      {"content",
       request_.schema.kind == AnswerSchema::Kind::kNone ? "" : ListBegin(request_.schema)},
      {"refusal", nullptr}};
  return http::Dump(out);
}

std::string ChunkWriter::Text(absl::string_view delta) {
  if (request_.schema.kind != AnswerSchema::Kind::kNone || delta.empty()) return "";
  return Content(delta);
}

std::string ChunkWriter::Object(const GroundObject& object) {
  if (request_.schema.kind != AnswerSchema::Kind::kBoxes) return "";
  const bool first = !std::exchange(has_items_, true);
  return Content(absl::StrCat(first ? "" : ", ", ListItem(request_.schema, object)));
}

std::vector<std::string> ChunkWriter::Finish(const GroundResult& result) {
  std::vector<std::string> out;
  const AnswerSchema& schema = request_.schema;
  if (schema.kind == AnswerSchema::Kind::kPoints) {
    for (const GroundPoint& point : result.points) {
      const bool first = !std::exchange(has_items_, true);
      out.push_back(Content(absl::StrCat(first ? "" : ", ", ListItem(schema, point))));
    }
  }
  if (schema.kind != AnswerSchema::Kind::kNone) out.push_back(Content(ListEnd(schema)));
  OrderedJson last = Chunk();
  last["choices"][0]["logprobs"] = LogprobsOf(request_, result);
  last["choices"][0]["finish_reason"] = FinishReason(result);
  last["chord"] = ChordOf(result);
  out.push_back(http::Dump(last));
  return out;
}

std::string ChunkWriter::Usage(const GroundResult& result) {
  if (!request_.include_usage) return "";
  OrderedJson out = Chunk();
  out["choices"] = OrderedJson::array();
  out["usage"] = UsageOf(result);
  return http::Dump(out);
}

std::string ModelJson(const ModelCard& model) { return http::Dump(CardOf(model)); }

std::string ModelListJson(const ModelCard& model) {
  OrderedJson out;
  out["object"] = "list";
  out["data"] = OrderedJson::array({CardOf(model)});
  return http::Dump(out);
}

}  // namespace chord::gateway::openai
