#include "services/gateway/openai/chat_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/errors.h"
#include "services/gateway/openai/error.h"

namespace chord::gateway::openai {
namespace {

using testing::ElementsAre;

constexpr ChatLimits kLimits = {.max_prompt_bytes = 4096, .max_new_tokens = 1024};
// "PNG": the parser does not look into the file.
constexpr absl::string_view kImage =
    R"({"type": "image_url", "image_url": {"url": "data:image/png;base64,UE5H"}})";

std::string Body(absl::string_view more = "", absl::string_view messages = "") {
  const std::string usual = absl::StrCat(R"([{"role": "user", "content": [)", kImage,
                                         R"(, {"type": "text", "text": "the cup"}]}])");
  return absl::StrCat(R"({"model": "m", "messages": )", messages.empty() ? usual : messages,
                      more.empty() ? "" : ", ", more, "}");
}

ChatRequest Parsed(const std::string& body) {
  auto request = ParseChatRequest(body, kLimits);
  EXPECT_TRUE(request.ok()) << request.status() << "\n" << body;
  return request.ok() ? *std::move(request) : ChatRequest();
}

// "REASON param"
std::string Refusal(const std::string& body) {
  const absl::Status status = ParseChatRequest(body, kLimits).status();
  return status.ok() ? "taken" : absl::StrCat(ErrorReason(status), " ", ParamOf(status));
}

std::string Parts(const ChatTurn& turn) {
  std::string out = turn.role == ChatTurn::Role::kSystem ? "system:"
                    : turn.role == ChatTurn::Role::kUser ? "user:"
                                                         : "assistant:";
  for (const TurnPart& part : turn.parts) {
    absl::StrAppend(&out, part.image ? "<image>" : part.text, "|");
  }
  return out;
}

TEST(ParseChatRequest, TakesAnImageAndAText) {
  const ChatRequest request = Parsed(Body());
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(request.image, "PNG");
  ASSERT_EQ(request.turns.size(), 1u);
  EXPECT_EQ(Parts(request.turns[0]), "user:<image>|the cup|");
  EXPECT_EQ(request.sampling.temperature, 0);
  EXPECT_FALSE(request.has_seed || request.stream || request.logprobs || request.max_tokens);
}

TEST(ParseChatRequest, TakesConversations) {
  const ChatRequest request =
      Parsed(Body("", absl::StrCat(R"([{"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}, )",
                                   kImage, R"(, {"type": "text", "text": "c"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "[]"}], "refusal": null},
            {"role": "user", "content": "and now?"}])")));
  std::vector<std::string> turns;
  for (const ChatTurn& turn : request.turns) turns.push_back(Parts(turn));
  EXPECT_THAT(turns, ElementsAre("system:Be brief.|", "user:a b|<image>|c|", "assistant:[]|",
                                 "user:and now?|"));
}

TEST(ParseChatRequest, TakesAnImageThatTheServiceKeeps) {
  const std::string id = "img_0123456789abcdef0123456789abcdef";
  const ChatRequest request = Parsed(
      absl::StrReplaceAll(Body(), {{"data:image/png;base64,UE5H", absl::StrCat("chord:", id)}}));
  EXPECT_EQ(request.image_id, id);
  EXPECT_EQ(request.image, "");
  EXPECT_EQ(Refusal(absl::StrReplaceAll(Body(), {{"data:image/png;base64,UE5H", "chord:img_1"}})),
            "IMAGE_ID_UNKNOWN messages[0].content[0].image_url.url");
}

TEST(ParseChatRequest, TakesEveryParameterThatIsKept) {
  const ChatRequest request = Parsed(Body(
      R"("max_completion_tokens": 7, "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": -3,
         "stop": ["a", "b"], "logprobs": true, "top_logprobs": 20, "stream": true,
         "stream_options": {"include_usage": true, "include_obfuscation": false},
         "response_format": {"type": "text"}, "user": "u")"));
  EXPECT_EQ(request.max_tokens, 7);
  EXPECT_FLOAT_EQ(request.sampling.temperature, 0.5f);
  EXPECT_FLOAT_EQ(request.sampling.top_p, 0.9f);
  EXPECT_EQ(request.sampling.seed, static_cast<uint64_t>(-3));
  EXPECT_TRUE(request.has_seed && request.logprobs && request.stream && request.include_usage);
  EXPECT_THAT(request.stop, ElementsAre("a", "b"));
  EXPECT_EQ(request.top_logprobs, 20);
  EXPECT_THAT(Parsed(Body(R"("stop": "x")")).stop, ElementsAre("x"));
}

TEST(ParseChatRequest, TakesNullAndValuesThatChangeNothing) {
  Parsed(Body(
      R"("n": 1, "tools": null, "temperature": null, "frequency_penalty": 0,
         "presence_penalty": 0.0, "logit_bias": {}, "tool_choice": "none", "store": false,
         "parallel_tool_calls": true, "modalities": ["text"], "service_tier": "auto", "audio": null,
         "metadata": {}, "stop": null, "stream_options": null, "functions": [])"));
}

TEST(ParseChatRequest, RefusesByNameWhatItCannotDo) {
  struct Case {
    const char* parameter;
    const char* refusal;
  };
  for (const Case& c : std::vector<Case>{
           {R"("n": 2)", "PARAMETER_UNSUPPORTED n"},
           {R"("tools": [{"type": "function"}])", "PARAMETER_UNSUPPORTED tools"},
           {R"("tool_choice": "required")", "PARAMETER_UNSUPPORTED tool_choice"},
           {R"("functions": [{}])", "PARAMETER_UNSUPPORTED functions"},
           {R"("function_call": {"name": "f"})", "PARAMETER_UNSUPPORTED function_call"},
           {R"("audio": {"voice": "x"})", "PARAMETER_UNSUPPORTED audio"},
           {R"("modalities": ["text", "audio"])", "PARAMETER_UNSUPPORTED modalities"},
           {R"("prediction": {"type": "content"})", "PARAMETER_UNSUPPORTED prediction"},
           {R"("frequency_penalty": 1)", "PARAMETER_UNSUPPORTED frequency_penalty"},
           {R"("presence_penalty": -1)", "PARAMETER_UNSUPPORTED presence_penalty"},
           {R"("logit_bias": {"5": 1})", "PARAMETER_UNSUPPORTED logit_bias"},
           {R"("store": true)", "PARAMETER_UNSUPPORTED store"},
           {R"("web_search_options": {})", "PARAMETER_UNSUPPORTED web_search_options"},
           {R"("reasoning_effort": "high")", "PARAMETER_UNSUPPORTED reasoning_effort"},
           {R"("verbosity": "low")", "PARAMETER_UNSUPPORTED verbosity"},
           {R"("service_tier": "priority")", "PARAMETER_UNSUPPORTED service_tier"},
           {R"("metadata": {"a": "b"})", "PARAMETER_UNSUPPORTED metadata"},
           {R"("response_format": {"type": "json_object"})",
            "PARAMETER_UNSUPPORTED response_format.type"},
           {R"("stream_options": {"include_obfuscation": true}, "stream": true)",
            "PARAMETER_UNSUPPORTED stream_options.include_obfuscation"},
           {R"("top_k": 5)", "FIELD_UNKNOWN top_k"},
           {R"("<b>": 5)", "FIELD_UNKNOWN "},
       }) {
    EXPECT_EQ(Refusal(Body(c.parameter)), c.refusal) << c.parameter;
  }
}

TEST(ParseChatRequest, RefusesValuesOutOfTheirRange) {
  struct Case {
    const char* parameter;
    const char* name;
  };
  for (const Case& c : std::vector<Case>{
           {R"("max_tokens": 0)", "max_tokens"},
           {R"("max_tokens": 1025)", "max_tokens"},
           {R"("max_tokens": 1.0)", "max_tokens"},
           {R"("max_tokens": "5")", "max_tokens"},
           {R"("max_completion_tokens": -1)", "max_completion_tokens"},
           {R"("max_completion_tokens": 18446744073709551615)", "max_completion_tokens"},
           {R"("max_tokens": 5, "max_completion_tokens": 6)", "max_tokens"},
           {R"("temperature": -0.1)", "temperature"},
           {R"("temperature": 2.1)", "temperature"},
           {R"("temperature": "1")", "temperature"},
           {R"("top_p": 1.1)", "top_p"},
           {R"("seed": 1.5)", "seed"},
           {R"("seed": 9223372036854775808)", "seed"},
           {R"("stop": "")", "stop"},
           {R"("stop": [])", "stop"},
           {R"("stop": ["a", "b", "c", "d", "e"])", "stop"},
           {R"("stop": [1])", "stop"},
           {R"("logprobs": 1)", "logprobs"},
           {R"("logprobs": true, "top_logprobs": 21)", "top_logprobs"},
           {R"("top_logprobs": 2)", "top_logprobs"},
           {R"("stream": "true")", "stream"},
           {R"("stream_options": {"include_usage": true})", "stream_options"},
           {R"("stream": true, "stream_options": {"include_usage": 1})",
            "stream_options.include_usage"},
           {R"("response_format": "text")", "response_format"},
       }) {
    EXPECT_EQ(Refusal(Body(c.parameter)), absl::StrCat("PARAMETER_INVALID ", c.name))
        << c.parameter;
  }
}

TEST(ParseChatRequest, TakesLabelsInsteadOfTheLastMessagesText) {
  const std::string image = absl::StrCat(R"([{"role": "user", "content": [)", kImage, "]}]");
  const ChatRequest request = Parsed(Body(R"("labels": ["cup", "plate"])", image));
  EXPECT_THAT(request.labels, ElementsAre("cup", "plate"));
  EXPECT_EQ(Parts(request.turns[0]), "user:<image>|");
  EXPECT_EQ(Refusal(Body("", image)), "PROMPT_EMPTY messages[0].content");
  EXPECT_EQ(Refusal(Body(R"("labels": ["cup"])")), "PARAMETER_INVALID labels") << "it has text";
  for (const char* bad : {R"("labels": [])", R"("labels": "cup")", R"("labels": [1])",
                          R"("labels": ["a", "A"])", R"("labels": ["a,b"])"}) {
    EXPECT_EQ(Refusal(Body(bad, image)), "PARAMETER_INVALID labels") << bad;
  }
  EXPECT_EQ(Refusal(Body(R"("labels": ["cup"], "logprobs": true)", image)),
            "PARAMETER_UNSUPPORTED logprobs");
}

TEST(ParseChatRequest, RefusesBadMessagesByTheirPlace) {
  const auto user = [](absl::string_view content) {
    return absl::StrCat(R"([{"role": "user", "content": )", content, "}]");
  };
  const auto with_image = [&](absl::string_view more) {
    return user(absl::StrCat("[", kImage, ", ", more, "]"));
  };
  struct Case {
    std::string messages, refusal;
  };
  for (const Case& c : std::vector<Case>{
           {"[]", "PARAMETER_INVALID messages"},
           {"{}", "PARAMETER_INVALID messages"},
           {"[1]", "PARAMETER_INVALID messages[0]"},
           {R"([{"content": "x"}])", "PARAMETER_INVALID messages[0].role"},
           {R"([{"role": "robot", "content": "x"}])", "PARAMETER_INVALID messages[0].role"},
           {R"([{"role": "tool", "content": "x"}])", "PARAMETER_UNSUPPORTED messages[0].role"},
           {R"([{"role": "user"}])", "PARAMETER_INVALID messages[0].content"},
           {user("5"), "PARAMETER_INVALID messages[0].content"},
           {user("[]"), "PARAMETER_INVALID messages[0].content"},
           {user("[{}]"), "PARAMETER_INVALID messages[0].content[0]"},
           {user("\"no image\""), "IMAGE_MISSING messages"},
           {with_image(R"({"type": "text", "text": " "})"), "PROMPT_EMPTY messages[0].content"},
           {with_image(R"({"type": "text"})"), "PARAMETER_INVALID messages[0].content[1].text"},
           {with_image(R"({"type": "input_audio", "input_audio": {}})"),
            "PARAMETER_UNSUPPORTED messages[0].content[1].type"},
           {with_image(R"({"type": "file", "file": {}})"),
            "PARAMETER_UNSUPPORTED messages[0].content[1].type"},
           {with_image(std::string(kImage)),
            "PARAMETER_UNSUPPORTED messages[0].content[1].image_url"},
           {with_image(
                absl::StrCat(R"({"type": "text", "text": ")", std::string(5000, 'x'), "\"}")),
            "PROMPT_TOO_LONG messages[0].content[1].text"},
           {with_image(R"({"type": "text", "text": "a\u0000"})"),
            "PROMPT_HAS_NUL messages[0].content[1].text"},
           {user(R"([{"type": "image_url", "image_url": {"url": "https://x/y.png"}}])"),
            "IMAGE_URL_REFUSED messages[0].content[0].image_url.url"},
           {user(R"([{"type": "image_url", "image_url": {"url": "file:///x"}}])"),
            "IMAGE_URL_REFUSED messages[0].content[0].image_url.url"},
           {user(R"([{"type": "image_url", "image_url": {"url": "data:;base64,"}}])"),
            "IMAGE_EMPTY messages[0].content[0].image_url.url"},
           {user(R"([{"type": "image_url", "image_url": {"url": "data:;base64,!"}}])"),
            "PARAMETER_INVALID messages[0].content[0].image_url.url"},
           {user(R"([{"type": "image_url", "image_url": "data:;base64,UE5H"}])"),
            "PARAMETER_INVALID messages[0].content[0].image_url"},
           {R"([{"role": "system", "content": [)" + std::string(kImage) + "]}]",
            "PARAMETER_UNSUPPORTED messages[0].content[0].type"},
           {R"([{"role": "user", "content": "x", "name": "bob"}])",
            "PARAMETER_UNSUPPORTED messages[0].name"},
           {R"([{"role": "user", "content": "x", "mood": "good"}])", "FIELD_UNKNOWN messages[0]"},
           {absl::StrCat(R"([{"role": "user", "content": [)", kImage,
                         R"(]}, {"role": "assistant", "content": "x"}])"),
            "PARAMETER_INVALID messages[1].role"},
       }) {
    EXPECT_EQ(Refusal(Body("", c.messages)), c.refusal) << c.messages.substr(0, 200);
  }
}

TEST(ParseChatRequest, RefusesBodiesThatAreNoRequest) {
  EXPECT_EQ(Refusal(""), "BODY_MALFORMED ");
  EXPECT_EQ(Refusal("[]"), "BODY_MALFORMED ");
  EXPECT_EQ(Refusal("{}"), "PARAMETER_INVALID model");
  EXPECT_EQ(Refusal(R"({"model": "m"})"), "PROMPT_MISSING messages");
  EXPECT_EQ(Refusal(R"({"model": 5, "messages": []})"), "PARAMETER_INVALID messages");
}

// --- response_format ----------------------------------------------------------------------------

std::string Format(absl::string_view schema) {
  return absl::StrCat(
      R"("response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": )",
      schema, "}}");
}

constexpr absl::string_view kBox =
    R"({"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4})";

std::string List(absl::string_view properties, absl::string_view more = "") {
  return absl::StrCat(R"({"type": "array", "items": {"type": "object", "properties": {)",
                      properties, "}", more, "}}");
}

TEST(AnswerSchema, TakesListsOfBoxesAndOfPoints) {
  const AnswerSchema boxes =
      Parsed(Body(Format(
                 List(absl::StrCat(R"("bbox_2d": )", kBox, R"(, "label": {"type": "string"})"),
                      R"(, "required": ["bbox_2d", "label"], "additionalProperties": false)"))))
          .schema;
  EXPECT_EQ(boxes.kind, AnswerSchema::Kind::kBoxes);
  EXPECT_TRUE(boxes.labels);
  EXPECT_EQ(boxes.property, "");
  const AnswerSchema points =
      Parsed(
          Body(Format(List(
              R"("point_2d": {"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}]})"))))
          .schema;
  EXPECT_EQ(points.kind, AnswerSchema::Kind::kPoints);
  EXPECT_FALSE(points.labels);
}

// As the Python client makes it of a pydantic model.
TEST(AnswerSchema, FollowsReferences) {
  const AnswerSchema schema =
      Parsed(
          Body(Format(absl::StrCat(
              R"({"$defs": {"Item": {"type": "object", "title": "Item", "properties": {"bbox_2d": )",
              kBox,
              R"(, "label": {"type": "string", "title": "Label"}}, "required": ["bbox_2d", "label"]}},
                 "type": "object", "title": "Answer", "properties": {"objects": {"type": "array",
                 "items": {"$ref": "#/$defs/Item"}}}, "required": ["objects"],
                 "additionalProperties": false})"))))
          .schema;
  EXPECT_EQ(schema.kind, AnswerSchema::Kind::kBoxes);
  EXPECT_EQ(schema.property, "objects");
}

TEST(AnswerSchema, RefusesOtherForms) {
  const std::string box = absl::StrCat(R"("bbox_2d": )", kBox);
  for (const std::string& schema : {
           std::string("{}"),
           std::string(R"({"type": "object"})"),
           List(R"("label": {"type": "string"})"),
           List(absl::StrCat(box, R"(, "area": {"type": "number"})")),
           List(absl::StrCat(box, R"(, "label": {"type": "string", "enum": ["a"]})")),
           List(absl::StrCat(box,
                             R"(, "point_2d": {"type": "array", "items": {"type": "integer"}})")),
           List(R"("bbox_2d": {"type": "array", "items": {"type": "string"}})"),
           List(R"("bbox_2d": {"type": "array", "items": {"type": "integer"}, "maxItems": 5})"),
           List(box, R"(, "required": ["score"])"),
           std::string(R"({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}})"),
           std::string(R"({"$ref": "http://x"})"),
           std::string(R"({"$ref": 5})"),
           absl::StrReplaceAll(List(box),
                               {{R"("type": "array", "items": {"type": "object")",
                                 R"("type": "array", "maxItems": 3, "items": {"type": "object")"}}),
       }) {
    EXPECT_EQ(Refusal(Body(Format(schema))),
              "PARAMETER_UNSUPPORTED response_format.json_schema.schema")
        << schema;
  }
  EXPECT_EQ(Refusal(Body(absl::StrCat(R"("logprobs": true, )", Format(List(box))))),
            "PARAMETER_UNSUPPORTED logprobs");
}

TEST(AnswerSchema, WritesItsItems) {
  AnswerSchema schema{AnswerSchema::Kind::kBoxes, "a\"b", true};
  GroundObject object;
  object.label = "cup";
  object.box = {1, 2, 3, 4};
  EXPECT_EQ(absl::StrCat(ListBegin(schema), ListItem(schema, object), ListEnd(schema)),
            R"({"a\"b": [{"bbox_2d":[1,2,3,4],"label":"cup"}]})");
  schema = {AnswerSchema::Kind::kPoints, "", false};
  GroundPoint point;
  point.at = {5, 6};
  EXPECT_EQ(absl::StrCat(ListBegin(schema), ListItem(schema, point), ListEnd(schema)),
            R"([{"point_2d":[5,6]}])");
}

}  // namespace
}  // namespace chord::gateway::openai
