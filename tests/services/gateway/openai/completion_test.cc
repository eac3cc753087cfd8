#include "services/gateway/openai/completion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/errors.h"
#include "services/gateway/openai/error.h"

namespace chord::gateway::openai {
namespace {

using Json = nlohmann::json;

const CompletionHead kHead = {"chatcmpl-1", 1700000000, "m", "0123456789abcdef"};

GroundResult Result() {
  GroundResult out;
  out.model_text = R"([{"bbox_2d": [1, 2, 3, 4], "label": "cup"}])";
  out.text = "cup <box>(2,4),(6,8)</box>";
  out.objects.resize(1);
  out.objects[0].label = "cup";
  out.objects[0].box = {2, 4, 6, 8};
  out.frame.upright = out.frame.resized = {100, 100};
  out.usage.prompt_tokens = 40;
  out.usage.completion_tokens = 12;
  out.usage.cached_tokens = 30;
  out.request_id = "req_1";
  return out;
}

Json Parse(const std::string& text) { return Json::parse(text, nullptr, false); }

TEST(Completion, HasTheModelsTextAndOurAnswer) {
  const Json json = Parse(CompletionJson(kHead, {}, Result()));
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_EQ(json["system_fingerprint"], "fp_0123456789ab");
  ASSERT_EQ(json["choices"].size(), 1u);
  EXPECT_EQ(json["choices"][0]["message"]["content"], Result().model_text);
  EXPECT_EQ(json["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(json["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(json["usage"]["total_tokens"], 52);
  EXPECT_EQ(json["usage"]["prompt_tokens_details"]["cached_tokens"], 30);
  EXPECT_EQ(json["chord"]["boxes"], Json::parse("[[2,4,6,8]]"));
  EXPECT_EQ(json["chord"]["request_id"], "req_1");
}

TEST(Completion, SaysThatAnAnswerWasCut) {
  GroundResult result = Result();
  result.truncated = true;
  EXPECT_EQ(Parse(CompletionJson(kHead, {}, result))["choices"][0]["finish_reason"], "length");
}

TEST(Completion, ListsTokensWithTheirAlternatives) {
  ChatRequest request;
  request.logprobs = true;
  GroundResult result = Result();
  result.tokens = {{"\xC3\xA9", -0.5, {{"\xC3\xA9", -0.5}, {"\xC3", -1.5}}}};
  const Json json = Parse(CompletionJson(kHead, request, result));
  const Json& token = json["choices"][0]["logprobs"]["content"][0];
  EXPECT_EQ(token["token"], "\xC3\xA9");
  EXPECT_EQ(token["logprob"], -0.5);
  EXPECT_EQ(token["bytes"], Json::parse("[195,169]"));
  ASSERT_EQ(token["top_logprobs"].size(), 2u);
  EXPECT_EQ(token["top_logprobs"][1]["bytes"], Json::parse("[195]"));  // part of a character
  EXPECT_EQ(token["top_logprobs"][1]["token"], "\xEF\xBF\xBD");
}

TEST(Completion, KeepsASchemaInOriginalPixels) {
  ChatRequest request;
  request.schema = {AnswerSchema::Kind::kBoxes, "objects", true};
  const Json json = Parse(CompletionJson(kHead, request, Result()));
  const Json content = Parse(json["choices"][0]["message"]["content"]);
  EXPECT_EQ(content, Json::parse(R"({"objects": [{"bbox_2d": [2, 4, 6, 8], "label": "cup"}]})"));
  request.schema = {AnswerSchema::Kind::kPoints, "", true};
  EXPECT_EQ(Parse(CompletionJson(kHead, request, Result()))["choices"][0]["message"]["content"],
            "[]");
}

// The contents of all chunks.
std::string Join(const std::vector<std::string>& chunks) {
  std::string out;
  for (const std::string& chunk : chunks) {
    if (chunk.empty()) continue;
    const Json json = Parse(chunk);
    EXPECT_EQ(json["object"], "chat.completion.chunk");
    EXPECT_EQ(json["id"], "chatcmpl-1");
    for (const Json& choice : json["choices"]) {
      if (choice["delta"].contains("content")) out += choice["delta"]["content"];
    }
  }
  return out;
}

TEST(ChunkWriter, StreamsTheModelsText) {
  ChatRequest request;
  request.stream = request.include_usage = true;
  ChunkWriter writer(kHead, request);
  std::vector<std::string> chunks = {writer.Begin(), writer.Text("[{\"bb"), writer.Text(""),
                                     writer.Object(Result().objects[0]), writer.Text("ox")};
  EXPECT_EQ(Parse(chunks[0])["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(Join(chunks), "[{\"bbox");
  EXPECT_EQ(chunks[2] + chunks[3], "");
  const auto last = writer.Finish(Result());
  ASSERT_EQ(last.size(), 1u);
  EXPECT_EQ(Parse(last[0])["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(Parse(last[0])["chord"]["boxes"][0][3], 8);
  EXPECT_TRUE(Parse(last[0])["usage"].is_null());
  const Json usage = Parse(writer.Usage(Result()));
  EXPECT_EQ(usage["choices"], Json::array());
  EXPECT_EQ(usage["usage"]["completion_tokens"], 12);
}

TEST(ChunkWriter, SaysNothingOfUsageUnasked) {
  ChatRequest request;
  ChunkWriter writer(kHead, request);
  EXPECT_EQ(writer.Usage(Result()), "");
  EXPECT_FALSE(Parse(writer.Begin()).contains("usage"));
}

TEST(ChunkWriter, StreamsObjectsUnderASchemaAsTheWholeAnswerHasThem) {
  ChatRequest request;
  request.schema = {AnswerSchema::Kind::kBoxes, "objects", true};
  GroundResult result = Result();
  result.objects.push_back(result.objects[0]);
  result.objects[1].label = "other";
  ChunkWriter writer(kHead, request);
  std::vector<std::string> chunks = {writer.Begin(), writer.Text("[{"),
                                     writer.Object(result.objects[0]),
                                     writer.Object(result.objects[1])};
  for (std::string& chunk : writer.Finish(result)) chunks.push_back(std::move(chunk));
  const Json whole = Parse(CompletionJson(kHead, request, result));
  EXPECT_EQ(Join(chunks), whole["choices"][0]["message"]["content"]);
}

TEST(ChunkWriter, WritesPointsOfASchemaAtTheEnd) {
  ChatRequest request;
  request.schema = {AnswerSchema::Kind::kPoints, "", false};
  GroundResult result = Result();
  result.points.resize(2);
  ChunkWriter writer(kHead, request);
  std::vector<std::string> chunks = {writer.Begin(), writer.Object(result.objects[0])};
  for (std::string& chunk : writer.Finish(result)) chunks.push_back(std::move(chunk));
  EXPECT_EQ(Join(chunks), R"([{"point_2d":[0,0]}, {"point_2d":[0,0]}])");
}

TEST(Models, AreListed) {
  const Json list = Parse(ModelListJson({"m", 5, "ab"}));
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["data"][0], Parse(ModelJson({"m", 5, "ab"})));
  EXPECT_EQ(list["data"][0]["chord"]["fingerprint"], "ab");
  EXPECT_EQ(list["data"][0]["id"], "m");
}

TEST(Error, HasOpenAisForm) {
  const auto error = [](const absl::Status& status) {
    const http::Response response = ErrorResponse(status);
    Json out = Json::parse(response.body)["error"];
    out["status"] = response.status;
    return out;
  };
  Json json = error(WithParam(errors::ParameterUnsupported("n", "1"), "n"));
  EXPECT_EQ(json["status"], 400);
  EXPECT_EQ(json["type"], "invalid_request_error");
  EXPECT_EQ(json["param"], "n");
  EXPECT_EQ(json["code"], "PARAMETER_UNSUPPORTED");
  json = error(errors::ModelUnknown());
  EXPECT_EQ(json["status"], 404);
  EXPECT_EQ(json["param"], "model");
  EXPECT_EQ(error(errors::ImageCorrupt("PNG"))["param"], "messages");
  EXPECT_EQ(error(errors::Overloaded(absl::Seconds(1)))["type"], "rate_limit_error");
  EXPECT_EQ(error(errors::WorkerLost("vision"))["type"], "server_error");
  json = error(absl::InternalError("a path /x"));
  EXPECT_EQ(json["status"], 500);
  EXPECT_TRUE(json["param"].is_null());
  EXPECT_EQ(json["message"].get<std::string>().find("/x"), std::string::npos);
}

TEST(Error, SaysWhenToTryAgain) {
  const http::Response response = ErrorResponse(errors::Overloaded(absl::Milliseconds(1500)));
  EXPECT_THAT(response.fields, testing::Contains(testing::Pair("Retry-After", "2")));
}

}  // namespace
}  // namespace chord::gateway::openai
