#include "services/cli/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_replace.h"

namespace chord::cli {
namespace {

constexpr char kGood[] =
    R"({"text": "t", "boxes": [[1, 2, 3, 4]], "objects": [{"label": "cup", "box": [1, 2, 3, 4],
        "confidence": 0.5, "needs_review": true}], "confidence": 0.25, "calibrated": true,
        "model": "m"})";

TEST(HttpAnswerTest, ReadsTheContract) {
  const auto answer = ParseHttpAnswer(200, kGood);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->objects(0).label(), "cup");
  EXPECT_EQ(answer->objects(0).box().y2(), 4);
  EXPECT_EQ(answer->objects(0).confidence(), 0.5);
  EXPECT_TRUE(answer->objects(0).needs_review());
  EXPECT_EQ(answer->confidence(), 0.25);
  EXPECT_TRUE(answer->calibrated());
  EXPECT_EQ(answer->model(), "m");
}

TEST(HttpAnswerTest, TakesNothingThatIsNoAnswer) {
  for (const std::string body : {"", "[]", "null", "<html>", "{}"}) {
    EXPECT_FALSE(ParseHttpAnswer(200, body).ok()) << body;
  }
  const std::pair<const char*, const char*> changes[] = {
      {"\"box\": [1, 2, 3, 4]", "\"box\": [1, 2, 3]"},
      {"\"box\": [1, 2, 3, 4]", "\"box\": [1, 2, 3, 1e99]"},
      {"\"box\": [1, 2, 3, 4]", "\"box\": [1, 2, 3, -4]"},
      {"\"box\": [1, 2, 3, 4]", "\"box\": null"},
      {"\"confidence\": 0.5", "\"confidence\": \"0.5\""},
      {"\"confidence\": 0.25", "\"confidence\": null"},
      {"\"objects\": [", "\"objects\": [3, "},
  };
  for (const auto& [from, to] : changes) {
    EXPECT_FALSE(ParseHttpAnswer(200, absl::StrReplaceAll(kGood, {{from, to}})).ok()) << to;
  }
}

TEST(HttpAnswerTest, TurnsRefusalsIntoStatuses) {
  const std::pair<int, absl::StatusCode> cases[] = {
      {429, absl::StatusCode::kResourceExhausted},
      {503, absl::StatusCode::kUnavailable},
      {504, absl::StatusCode::kDeadlineExceeded},
      {400, absl::StatusCode::kInvalidArgument},
  };
  for (const auto& [status, code] : cases) {
    const auto answer = ParseHttpAnswer(status, R"({"detail": "Send less."})");
    EXPECT_EQ(answer.status().code(), code);
    EXPECT_EQ(answer.status().message(), "Send less.");
  }
}

TEST(HttpClientTest, TakesAddressesAlone) {
  for (const char* good : {"127.0.0.1:80", "http://host:8080", "http://host:8080/", "[::1]:80"}) {
    EXPECT_TRUE(MakeHttpClient(good).ok()) << good;
  }
  for (const char* bad : {"", "host", ":80", "host:0", "host:x", "https://host", "host:80/path"}) {
    EXPECT_FALSE(MakeHttpClient(bad).ok()) << bad;
  }
}

TEST(HttpClientTest, ReportsAServerThatIsNotThere) {
  const auto client = MakeHttpClient("127.0.0.1:1");
  const auto answer = (*client)->Ground({.image = "x", .prompt = "a"});
  EXPECT_EQ(answer.status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace chord::cli
