#include "common/obs/log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/errors.h"

namespace chord::obs {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

class LogTest : public testing::Test {
 protected:
  LogTest() { EXPECT_EQ(pipe(pipe_), 0); }
  ~LogTest() override {
    StopLog();
    CloseReader();
    close(pipe_[1]);
  }
  void Start(LogOptions options = {}) {
    options.fd = pipe_[1];
    StartLog(options);
  }
  void CloseReader() {
    if (pipe_[0] >= 0) close(pipe_[0]);
    pipe_[0] = -1;
  }
  // All lines written until the log was stopped. For less than a pipe's 64 KiB.
  std::vector<json> StopAndRead() {
    StopLog();
    fcntl(pipe_[0], F_SETFL, O_NONBLOCK);
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = read(pipe_[0], buffer, sizeof(buffer))) > 0;) text.append(buffer, n);
    std::vector<json> lines;
    for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      EXPECT_LE(line.size(), 4095u);
      lines.push_back(json::parse(line.begin(), line.end()));  // throws on bad JSON or UTF-8
    }
    return lines;
  }

  int pipe_[2];
};

TEST_F(LogTest, WritesOneJsonObjectALine) {
  Start({.role = Role::kVisionWorker});
  Log(LogLevel::kWarning, "model_loaded", "req_1",
      {{"bytes", int64_t{24452448}},
       {"share", 0.5},
       {"tied", true},
       {"dtype", "bfloat16"},
       {"took", absl::Microseconds(1500)},
       {"bad", std::numeric_limits<double>::infinity()}});
  Log(LogLevel::kInfo, "ready", {});
  const std::vector<json> lines = StopAndRead();
  ASSERT_EQ(lines.size(), 2u);
  const json& line = lines[0];
  EXPECT_EQ(line["level"], "warning");
  EXPECT_EQ(line["role"], "vision_worker");
  EXPECT_EQ(line["pid"], getpid());
  EXPECT_EQ(line["event"], "model_loaded");
  EXPECT_EQ(line["request_id"], "req_1");
  EXPECT_EQ(line["bytes"], 24452448);
  EXPECT_EQ(line["share"], 0.5);
  EXPECT_EQ(line["tied"], true);
  EXPECT_EQ(line["dtype"], "bfloat16");
  EXPECT_EQ(line["took"], 1.5);
  EXPECT_TRUE(line["bad"].is_null());
  const std::string ts = line["ts"];
  absl::Time parsed;
  std::string error;
  EXPECT_EQ(ts.size(), std::string("2026-01-01T00:00:00.000Z").size());
  EXPECT_EQ(ts.back(), 'Z');
  EXPECT_TRUE(absl::ParseTime(absl::RFC3339_full, ts, &parsed, &error)) << ts << ": " << error;
  EXPECT_LT(absl::AbsDuration(absl::Now() - parsed), absl::Minutes(5));
  EXPECT_FALSE(lines[1].contains("request_id"));
}

TEST_F(LogTest, LeavesOutLinesBelowTheLevel) {
  Start({.level = LogLevel::kWarning});
  Log(LogLevel::kInfo, "quiet", {});
  Log(LogLevel::kError, "loud", {});
  const std::vector<json> lines = StopAndRead();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["event"], "loud");
}

TEST(JsonQuoteTest, EscapesWhatJsonAsksFor) {
  EXPECT_EQ(JsonQuote("a\"b\\c\n\t\r\b"), R"("a\"b\\c\u000a\u0009\u000d\u0008")");
  EXPECT_EQ(JsonQuote(absl::string_view("\0\x1f\x7f", 3)), R"("\u0000\u001f\u007f")");
  EXPECT_EQ(JsonQuote("红色 é 🙂"), "\"红色 é 🙂\"");
  EXPECT_EQ(JsonQuote(""), "\"\"");
}

TEST(JsonQuoteTest, ReplacesEachMaximalSubpartThatIsNotUtf8) {
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(JsonQuote("\xff"), "\"" + r + "\"");
  EXPECT_EQ(JsonQuote("a\x80z"), "\"a" + r + "z\"");
  EXPECT_EQ(JsonQuote("\xE2\x82"), "\"" + r + "\"");              // cut
  EXPECT_EQ(JsonQuote("\xE2\x82z"), "\"" + r + "z\"");            // interrupted
  EXPECT_EQ(JsonQuote("\xC0\xAF"), "\"" + r + r + "\"");          // overlong
  EXPECT_EQ(JsonQuote("\xED\xA0\x80"), "\"" + r + r + r + "\"");  // surrogate
  EXPECT_EQ(JsonQuote("\xF4\x90\x80\x80"), "\"" + r + r + r + r + "\"");
  EXPECT_EQ(JsonQuote("\xF0\x9F\x99"), "\"" + r + "\"");
  EXPECT_EQ(JsonQuote("\xF5\x80"), "\"" + r + r + "\"");
}

TEST(JsonQuoteTest, AnyBytesBecomeValidJson) {
  uint64_t state = 1;
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (int i = 0; i < 40; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      bytes.push_back(static_cast<char>(state >> 56));
    }
    EXPECT_TRUE(json::accept(JsonQuote(bytes))) << round;
  }
}

TEST_F(LogTest, CutsLongTextsAndLongLines) {
  Start();
  const std::string chinese = [] {
    std::string text;
    for (int i = 0; i < 1000; ++i) text += "红";
    return text;
  }();
  Log(LogLevel::kInfo, "long", {{"text", chinese}});
  Log(LogLevel::kInfo, "many",
      {{"a", std::string(512, '\1')}, {"b", std::string(512, '\1')}, {"c", 1}});
  const std::vector<json> lines = StopAndRead();
  ASSERT_EQ(lines.size(), 2u);
  const std::string text = lines[0]["text"];
  EXPECT_LT(text.size(), 520u);
  EXPECT_THAT(text, testing::EndsWith("红…"));
  EXPECT_TRUE(lines[1].contains("a"));
  EXPECT_EQ(lines[1]["cut"], true);
}

TEST_F(LogTest, WritesOneLineForARequest) {
  Start({.role = Role::kGateway});
  RequestLog request;
  request.request_id = "req_ab";
  request.method = Method::kChatCompletions;
  request.took = absl::Milliseconds(60);
  request.stages = {{Stage::kProbe, absl::Milliseconds(1)}, {Stage::kParse, absl::Milliseconds(2)}};
  request.image_tokens = 192;
  request.boxes = 0;
  LogRequest(request);
  request.status = errors::ImageCorrupt("PNG");
  LogRequest(request);
  request.status = absl::InternalError("libtorch reported \"no\"\n");
  LogRequest(request);
  const std::vector<json> lines = StopAndRead();
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0]["event"], "request");
  EXPECT_EQ(lines[0]["level"], "info");
  EXPECT_EQ(lines[0]["method"], "chat_completions");
  EXPECT_EQ(lines[0]["code"], "OK");
  EXPECT_EQ(lines[0]["ms"], 60);
  EXPECT_EQ(lines[0]["probe_ms"], 1);
  EXPECT_EQ(lines[0]["parse_ms"], 2);
  EXPECT_EQ(lines[0]["image_tokens"], 192);
  EXPECT_EQ(lines[0]["boxes"], 0);
  EXPECT_FALSE(lines[0].contains("reason"));
  EXPECT_EQ(lines[1]["level"], "info");
  EXPECT_EQ(lines[1]["reason"], "IMAGE_CORRUPT");
  EXPECT_FALSE(lines[1].contains("error"));
  EXPECT_EQ(lines[2]["level"], "error");
  EXPECT_EQ(lines[2]["error"], "libtorch reported \"no\"\n");
}

TEST_F(LogTest, AStalledReaderCostsLinesAndNothingElse) {
  Metrics metrics(Role::kGateway, "1");
  Start({.queue_lines = 64, .metrics = &metrics});
  // Far more than the pipe holds, without a reader.
  for (int i = 0; i < 5000; ++i) {
    Log(LogLevel::kInfo, "noise", {{"i", i}, {"text", std::string(100, 'x')}});
  }
  EXPECT_GT(LogLinesDropped(), 3000);
  StopLog();  // returns although the pipe is full
  const std::string text = metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("chord_log_lines_total{level=\"info\"} 5000\n"));
  EXPECT_THAT(text, Not(HasSubstr("chord_log_dropped_total 0\n")));
}

TEST_F(LogTest, AReaderThatWentAwayDoesNotEndTheProcess) {
  Start();
  CloseReader();
  for (int i = 0; i < 10; ++i) Log(LogLevel::kInfo, "noise", {{"i", i}});
  StopLog();
}

TEST_F(LogTest, TakesLinesFromManyThreads) {
  Start({.queue_lines = 100'000});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 60; ++i) Log(LogLevel::kInfo, "line", {{"t", t}, {"i", i}});
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::vector<json> lines = StopAndRead();
  EXPECT_EQ(lines.size(), 240u);
}

}  // namespace
}  // namespace chord::obs
