#include "services/gateway/openai/chat_request.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "common/base/data_url.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/json/body_json.h"
#include "services/gateway/images/image_store.h"
#include "services/gateway/openai/error.h"
#include "services/gateway/prompt.h"
#include "services/gateway/prompt_plan.h"

namespace chord::gateway::openai {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxMessages = 64;
constexpr size_t kMaxParts = 16;  // of one message
constexpr size_t kMaxStops = 4;
constexpr size_t kMaxStopBytes = 256;
constexpr size_t kMaxNoteBytes = 512;  // of a text that has no effect
constexpr absl::string_view kImageIdScheme = "chord:";

absl::Status Invalid(absl::string_view param, absl::string_view expected) {
  return WithParam(errors::ParameterInvalid(param, expected), param);
}
absl::Status Unsupported(absl::string_view param, absl::string_view expected) {
  return WithParam(errors::ParameterUnsupported(param, expected), param);
}

absl::StatusOr<int64_t> Integer(const Json& value, absl::string_view param, int64_t low,
                                int64_t high) {
  const bool fits =
      value.is_number_unsigned()
          ? value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())
          : value.is_number_integer();
  const int64_t number = fits ? value.get<int64_t>() : 0;
  if (!fits || number < low || number > high) {
    return Invalid(param, absl::StrCat("an integer from ", low, " to ", high));
  }
  return number;
}

absl::StatusOr<float> Number(const Json& value, absl::string_view param, double low, double high) {
  const double number = value.is_number() ? value.get<double>() : std::nan("");
  if (!(number >= low && number <= high)) {
    return Invalid(param, absl::StrCat("a number from ", low, " to ", high));
  }
  return static_cast<float>(number);
}

absl::StatusOr<bool> Flag(const Json& value, absl::string_view param) {
  if (!value.is_boolean()) return Invalid(param, "true or false");
  return value.get<bool>();
}

// --- messages -----------------------------------------------------------------------------------

absl::StatusOr<ChatTurn::Role> ParseRole(const Json& message, absl::string_view at) {
  const std::string param = absl::StrCat(at, ".role");
  const auto role = message.find("role");
  if (role != message.end() && role->is_string()) {
    if (*role == "system" || *role == "developer") return ChatTurn::Role::kSystem;
    if (*role == "user") return ChatTurn::Role::kUser;
    if (*role == "assistant") return ChatTurn::Role::kAssistant;
    if (*role == "tool" || *role == "function") {
      return Unsupported(param, R"("system", "developer", "user" or "assistant")");
    }
  }
  return Invalid(param, R"("system", "developer", "user" or "assistant")");
}

absl::Status CheckText(absl::string_view text, int64_t limit, absl::string_view param) {
  // Of a history or a system message nothing need be left: only what is asked must not be empty.
  const absl::Status status = CheckPrompt(text, limit);
  return errors::Is(status, Reason::kPromptEmpty) ? absl::OkStatus() : WithParam(status, param);
}

class MessageParser {
 public:
  MessageParser(const ChatLimits& limits, ChatRequest& out) : limits_(limits), out_(out) {}

  absl::Status Parse(Json& messages) {
    if (!messages.is_array() || messages.empty() || messages.size() > kMaxMessages) {
      return Invalid("messages", absl::StrCat("a list of 1 to ", kMaxMessages, " messages"));
    }
    for (size_t i = 0; i < messages.size(); ++i) {
      CHORD_RETURN_IF_ERROR(Message(messages[i], absl::StrCat("messages[", i, "]")));
    }
    return CheckWhole();
  }

 private:
  absl::Status Message(Json& message, const std::string& at) {
    if (!message.is_object()) return Invalid(at, "an object with role and content");
    ChatTurn turn;
    CHORD_ASSIGN_OR_RETURN(turn.role, ParseRole(message, at));
    for (auto& [key, value] : message.items()) {
      if (key == "role" || key == "content" || value.is_null()) continue;
      if (key == "refusal" || key == "annotations") continue;  // as answers carry them
      for (const char* known : {"name", "tool_calls", "tool_call_id", "function_call", "audio"}) {
        if (key == known) return Unsupported(absl::StrCat(at, ".", known), "absent");
      }
      // Chord's own answers may be handed back as they are.
      return WithParam(errors::FieldUnknown(key), at);
    }
    const auto content = message.find("content");
    const std::string param = absl::StrCat(at, ".content");
    if (content == message.end() || content->is_null()) {
      return Invalid(param, "text or a list of parts");
    }
    if (content->is_string()) {
      CHORD_RETURN_IF_ERROR(AddText(*content, param, turn));
    } else {
      CHORD_RETURN_IF_ERROR(Parts(*content, param, turn));
    }
    out_.turns.push_back(std::move(turn));
    return absl::OkStatus();
  }

  absl::Status Parts(Json& parts, const std::string& at, ChatTurn& turn) {
    if (!parts.is_array() || parts.empty() || parts.size() > kMaxParts) {
      return Invalid(at, absl::StrCat("text or a list of 1 to ", kMaxParts, " parts"));
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      const std::string param = absl::StrCat(at, "[", i, "]");
      Json& part = parts[i];
      const auto type = part.is_object() ? part.find("type") : part.end();
      if (type == part.end() || !type->is_string()) return Invalid(param, "an object with a type");
      if (*type == "text") {
        const auto text = part.find("text");
        if (text == part.end()) return Invalid(absl::StrCat(param, ".text"), "text");
        CHORD_RETURN_IF_ERROR(AddText(*text, absl::StrCat(param, ".text"), turn));
      } else if (*type == "image_url") {
        CHORD_RETURN_IF_ERROR(AddImage(part, param, turn));
      } else {
        return Unsupported(absl::StrCat(param, ".type"), R"("text" or "image_url")");
      }
    }
    return absl::OkStatus();
  }

  // Texts in a row are one text, as the model's chat template writes them.
  absl::Status AddText(const Json& value, const std::string& param, ChatTurn& turn) {
    if (!value.is_string()) return Invalid(param, "text");
    const auto& text = value.get_ref<const std::string&>();
    if (turn.parts.empty() || turn.parts.back().image) turn.parts.emplace_back();
    std::string& whole = turn.parts.back().text;
    whole += text;
    const int64_t limit = turn.role == ChatTurn::Role::kAssistant ? limits::kCeilingPromptBytes
                                                                  : limits_.max_prompt_bytes;
    return CheckText(whole, limit, param);
  }

  absl::Status AddImage(Json& part, const std::string& at, ChatTurn& turn) {
    if (turn.role != ChatTurn::Role::kUser) {
      return Unsupported(absl::StrCat(at, ".type"), R"("text": only a user's message has images)");
    }
    if (has_image_) {
      return Unsupported(absl::StrCat(at, ".image_url"),
                         "the only image of the conversation; send one request for each image");
    }
    const std::string param = absl::StrCat(at, ".image_url.url");
    const auto image = part.find("image_url");
    if (image == part.end() || !image->is_object()) {
      return Invalid(absl::StrCat(at, ".image_url"), "an object with a url");
    }
    const auto url = image->find("url");
    if (url == image->end() || !url->is_string()) return Invalid(param, "a data: URL with base64");
    if (const auto detail = image->find("detail"); detail != image->end() && !detail->is_null() &&
                                                   *detail != "auto" && *detail != "low" &&
                                                   *detail != "high") {
      return Invalid(absl::StrCat(at, ".image_url.detail"), R"("auto", "low" or "high")");
    }
    CHORD_RETURN_IF_ERROR(TakeImage(url->get_ref<std::string&>(), param));
    has_image_ = true;
    turn.parts.push_back({true, ""});
    return absl::OkStatus();
  }

  absl::Status TakeImage(std::string& url, const std::string& param) {
    absl::string_view id = url;
    if (absl::ConsumePrefix(&id, kImageIdScheme)) {
      if (!IsImageId(id)) return WithParam(errors::ImageIdUnknown(), param);
      out_.image_id = std::string(id);
      return absl::OkStatus();
    }
    auto bytes = DecodeDataUrl(std::move(url), param);
    if (!bytes.ok()) return WithParam(bytes.status(), param);
    if (bytes->empty()) return WithParam(errors::ImageEmpty(), param);
    out_.image = *std::move(bytes);
    return absl::OkStatus();
  }

  absl::Status CheckWhole() {
    if (!has_image_) return WithParam(errors::ImageMissing(), "messages");
    const ChatTurn& last = out_.turns.back();
    const std::string at = absl::StrCat("messages[", out_.turns.size() - 1, "]");
    if (last.role != ChatTurn::Role::kUser) {
      return Invalid(absl::StrCat(at, ".role"), "\"user\": the last message is what is asked");
    }
    return absl::OkStatus();
  }

  const ChatLimits& limits_;
  ChatRequest& out_;
  bool has_image_ = false;
};

// --- parameters that are kept -------------------------------------------------------------------

absl::Status ParseModel(Json& value, const ChatLimits&, ChatRequest& out) {
  if (!value.is_string())
    return Invalid("model", "the name of a model, as GET /v1/models lists it");
  out.model = std::move(value.get_ref<std::string&>());
  return absl::OkStatus();
}

absl::Status ParseMessages(Json& value, const ChatLimits& limits, ChatRequest& out) {
  return MessageParser(limits, out).Parse(value);
}

absl::Status ParseLength(const Json& value, absl::string_view param, const ChatLimits& limits,
                         ChatRequest& out) {
  CHORD_ASSIGN_OR_RETURN(const int64_t tokens, Integer(value, param, 1, limits.max_new_tokens));
  if (out.max_tokens && *out.max_tokens != tokens) {
    return Invalid(param, "the same as max_tokens, or absent");
  }
  out.max_tokens = static_cast<int>(tokens);
  return absl::OkStatus();
}

absl::Status ParseMaxTokens(Json& value, const ChatLimits& limits, ChatRequest& out) {
  return ParseLength(value, "max_tokens", limits, out);
}

absl::Status ParseMaxCompletionTokens(Json& value, const ChatLimits& limits, ChatRequest& out) {
  return ParseLength(value, "max_completion_tokens", limits, out);
}

absl::Status ParseTemperature(Json& value, const ChatLimits&, ChatRequest& out) {
  CHORD_ASSIGN_OR_RETURN(out.sampling.temperature, Number(value, "temperature", 0, 2));
  return absl::OkStatus();
}

absl::Status ParseTopP(Json& value, const ChatLimits&, ChatRequest& out) {
  CHORD_ASSIGN_OR_RETURN(out.sampling.top_p, Number(value, "top_p", 0, 1));
  return absl::OkStatus();
}

absl::Status ParseSeed(Json& value, const ChatLimits&, ChatRequest& out) {
  CHORD_ASSIGN_OR_RETURN(const int64_t seed,
                         Integer(value, "seed", std::numeric_limits<int64_t>::min(),
                                 std::numeric_limits<int64_t>::max()));
  out.sampling.seed = static_cast<uint64_t>(seed);
  out.has_seed = true;
  return absl::OkStatus();
}

absl::Status ParseStop(Json& value, const ChatLimits&, ChatRequest& out) {
  const absl::Status bad =
      Invalid("stop", absl::StrCat("a text, or a list of 1 to ", kMaxStops, " texts, of 1 to ",
                                   kMaxStopBytes, " bytes"));
  const Json list = value.is_array() ? std::move(value) : Json::array({std::move(value)});
  if (list.empty() || list.size() > kMaxStops) return bad;
  for (const Json& item : list) {
    if (!item.is_string()) return bad;
    const auto& text = item.get_ref<const std::string&>();
    if (text.empty() || text.size() > kMaxStopBytes) return bad;
    out.stop.push_back(text);
  }
  return absl::OkStatus();
}

absl::Status ParseLogprobs(Json& value, const ChatLimits&, ChatRequest& out) {
  CHORD_ASSIGN_OR_RETURN(out.logprobs, Flag(value, "logprobs"));
  return absl::OkStatus();
}

absl::Status ParseTopLogprobs(Json& value, const ChatLimits&, ChatRequest& out) {
  CHORD_ASSIGN_OR_RETURN(const int64_t count, Integer(value, "top_logprobs", 0, 20));
  out.top_logprobs = static_cast<int>(count);
  return absl::OkStatus();
}

absl::Status ParseResponseFormat(Json& value, const ChatLimits&, ChatRequest& out) {
  CHORD_ASSIGN_OR_RETURN(out.schema, ParseAnswerSchema(value));
  return absl::OkStatus();
}

absl::Status ParseStream(Json& value, const ChatLimits&, ChatRequest& out) {
  CHORD_ASSIGN_OR_RETURN(out.stream, Flag(value, "stream"));
  return absl::OkStatus();
}

absl::Status ParseStreamOptions(Json& value, const ChatLimits&, ChatRequest& out) {
  if (!value.is_object()) return Invalid("stream_options", "an object");
  for (const auto& [key, option] : value.items()) {
    if (option.is_null()) continue;
    if (key == "include_usage") {
      CHORD_ASSIGN_OR_RETURN(out.include_usage, Flag(option, "stream_options.include_usage"));
    } else if (key == "include_obfuscation") {
      if (option != false) return Unsupported("stream_options.include_obfuscation", "false");
    } else {
      return WithParam(errors::FieldUnknown(key), "stream_options");
    }
  }
  return absl::OkStatus();
}

// A parameter of ours; clients send it as an extra one.
absl::Status ParseLabels(Json& value, const ChatLimits&, ChatRequest& out) {
  const bool texts =
      value.is_array() && value.size() <= kMaxLabels &&
      std::all_of(value.begin(), value.end(), [](const Json& item) { return item.is_string(); });
  if (!texts) {
    return Invalid("labels", absl::StrCat("a list of 1 to ", kMaxLabels, " texts"));
  }
  for (const Json& item : value) out.labels.push_back(item.get<std::string>());
  return WithParam(CheckLabels(out.labels), "labels");
}

struct Kept {
  absl::string_view name;
  absl::Status (*parse)(Json& value, const ChatLimits& limits, ChatRequest& out);
};
constexpr Kept kKept[] = {
    {"model", ParseModel},
    {"messages", ParseMessages},
    {"labels", ParseLabels},
    {"max_tokens", ParseMaxTokens},
    {"max_completion_tokens", ParseMaxCompletionTokens},
    {"temperature", ParseTemperature},
    {"top_p", ParseTopP},
    {"seed", ParseSeed},
    {"stop", ParseStop},
    {"logprobs", ParseLogprobs},
    {"top_logprobs", ParseTopLogprobs},
    {"response_format", ParseResponseFormat},
    {"stream", ParseStream},
    {"stream_options", ParseStreamOptions},
};

// --- parameters that are refused, but for the value that changes nothing ------------------------

bool IsNote(const Json& v) {
  return v.is_string() && v.get_ref<const std::string&>().size() <= kMaxNoteBytes;
}
bool IsNothing(const Json& v) { return (v.is_array() || v.is_object()) && v.empty(); }

struct Neutral {
  absl::string_view name;
  absl::string_view expected;
  bool (*is_neutral)(const Json& value);
};
constexpr Neutral kNeutral[] = {
    {"n", "1 or absent", [](const Json& v) { return v == 1; }},
    {"frequency_penalty", "0 or absent", [](const Json& v) { return v == 0; }},
    {"presence_penalty", "0 or absent", [](const Json& v) { return v == 0; }},
    {"logit_bias", "absent", IsNothing},
    {"tools", "absent", IsNothing},
    {"functions", "absent", IsNothing},
    {"tool_choice", "\"none\" or absent", [](const Json& v) { return v == "none" || v == "auto"; }},
    {"function_call", "\"none\" or absent",
     [](const Json& v) { return v == "none" || v == "auto"; }},
    {"parallel_tool_calls", "absent", [](const Json& v) { return v.is_boolean(); }},
    {"modalities", "[\"text\"] or absent",
     [](const Json& v) { return v == Json::array({"text"}); }},
    {"audio", "absent", IsNothing},
    {"prediction", "absent", IsNothing},
    {"web_search_options", "absent", [](const Json&) { return false; }},
    {"store", "false or absent", [](const Json& v) { return v == false; }},
    {"metadata", "absent", IsNothing},
    {"service_tier", "\"auto\", \"default\" or absent",
     [](const Json& v) { return v == "auto" || v == "default"; }},
    {"reasoning_effort", "\"none\" or absent", [](const Json& v) { return v == "none"; }},
    {"verbosity", "\"medium\" or absent", [](const Json& v) { return v == "medium"; }},
    // Identifies the end user; has no effect here.
    {"user", "a text of at most 512 bytes", IsNote},
    {"safety_identifier", "a text of at most 512 bytes", IsNote},
    {"prompt_cache_key", "a text of at most 512 bytes", IsNote},
    {"prompt_cache_retention", "a text of at most 512 bytes", IsNote},
};

// The name of an unknown parameter, when it looks like one.
absl::string_view ShowableName(absl::string_view name) {
  const bool good =
      !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '_';
      });
  return good ? name : absl::string_view();
}

absl::Status ParseParameter(absl::string_view name, Json& value, const ChatLimits& limits,
                            ChatRequest& out) {
  if (value.is_null()) return absl::OkStatus();
  for (const Kept& kept : kKept) {
    if (kept.name == name) return kept.parse(value, limits, out);
  }
  for (const Neutral& neutral : kNeutral) {
    if (neutral.name != name) continue;
    if (neutral.is_neutral(value)) return absl::OkStatus();
    return Unsupported(name, neutral.expected);
  }
  return WithParam(errors::FieldUnknown(name), ShowableName(name));
}

// The last message, which is what is asked.
absl::Status CheckAsked(const ChatRequest& request, const ChatLimits& limits) {
  std::string asked;
  for (const TurnPart& part : request.turns.back().parts) asked += part.text;
  const std::string at = absl::StrCat("messages[", request.turns.size() - 1, "].content");
  if (request.labels.empty()) return WithParam(CheckPrompt(asked, limits.max_prompt_bytes), at);
  if (!asked.empty()) return Invalid("labels", "absent when the last message has text");
  if (request.logprobs) return Unsupported("logprobs", "absent with labels");
  if (request.schema.kind == AnswerSchema::Kind::kPoints) {
    return Unsupported("labels", "absent with a JSON schema of points");
  }
  return absl::OkStatus();
}

// What only shows when all parameters are read.
absl::Status CheckTogether(const Json& body, const ChatRequest& request, const ChatLimits& limits) {
  if (request.model.empty()) {
    return Invalid("model", "the name of a model, as GET /v1/models lists it");
  }
  if (request.turns.empty()) return WithParam(errors::PromptMissing(), "messages");
  if (!request.stream && body.contains("stream_options") && !body["stream_options"].is_null()) {
    return Invalid("stream_options", "absent without stream");
  }
  if (request.top_logprobs > 0 && !request.logprobs) {
    return Invalid("top_logprobs", "absent without logprobs");
  }
  if (request.logprobs && request.schema.kind != AnswerSchema::Kind::kNone) {
    return Unsupported("logprobs",
                       "absent with a JSON schema, whose text is not written token by token");
  }
  return CheckAsked(request, limits);
}

}  // namespace

absl::StatusOr<ChatRequest> ParseChatRequest(const std::string& body, const ChatLimits& limits) {
  CHORD_ASSIGN_OR_RETURN(Json json, ParseBodyJson(body));
  if (!json.is_object()) return errors::BodyMalformed("one JSON object with model and messages");
  ChatRequest out;
  for (auto& [name, value] : json.items()) {
    CHORD_RETURN_IF_ERROR(ParseParameter(name, value, limits, out));
  }
  CHORD_RETURN_IF_ERROR(CheckTogether(json, out, limits));
  return out;
}

}  // namespace chord::gateway::openai
