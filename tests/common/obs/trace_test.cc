#include "common/obs/trace.h"

#include <gtest/gtest.h>

#include <set>

#include "common/obs/log.h"

namespace chord::obs {
namespace {

constexpr char kTrace[] = "0af7651916cd43dd8448eb211c80319c";
constexpr char kParent[] = "b7ad6b7169203331";

std::string Header(const std::string& flags) {
  return std::string("00-") + kTrace + "-" + kParent + "-" + flags;
}

TEST(Traceparent, IsReadAndWritten) {
  const TraceContext context = ParseTraceparent(Header("01"));
  EXPECT_EQ(context.trace_id, kTrace);
  EXPECT_EQ(context.span_id, kParent);
  EXPECT_TRUE(context.sampled);
  EXPECT_EQ(ToTraceparent(context), Header("01"));
  EXPECT_FALSE(ParseTraceparent(Header("00")).sampled);
  EXPECT_TRUE(ParseTraceparent(Header("ff")).sampled);
  EXPECT_EQ(ToTraceparent({}), "");
}

TEST(Traceparent, ALaterVersionIsReadAsFarAsThisOneGoes) {
  EXPECT_TRUE(ParseTraceparent("01" + Header("01").substr(2) + "-more"));
  EXPECT_FALSE(ParseTraceparent(Header("01") + "-more"));
  EXPECT_FALSE(ParseTraceparent("01" + Header("01").substr(2) + "more"));
}

TEST(Traceparent, WhatIsMalformedIsNoTrace) {
  for (const std::string& text :
       {std::string(), std::string("00"), std::string(55, '-'), "ff" + Header("01").substr(2),
        "00-" + std::string(32, '0') + "-" + kParent + "-01",
        std::string("00-") + kTrace + "-" + std::string(16, '0') + "-01",
        "00-0AF7651916CD43DD8448EB211C80319C-" + std::string(kParent) + "-01", Header("0"),
        Header("0g"), Header("1"), Header("01").substr(1)}) {
    EXPECT_FALSE(ParseTraceparent(text)) << text;
  }
}

class SinkTest : public testing::Test {
 protected:
  ~SinkTest() override { SetSpanSink(nullptr, 0); }
  void Sample(double ratio) {
    SetSpanSink([this](std::vector<Span> spans) { spans_ = std::move(spans); }, ratio);
  }
  std::vector<Span> spans_;
};

TEST_F(SinkTest, ATraceIsContinuedAlsoWithoutASinkAndBegunOnlyWithOne) {
  const SpanIds ids = BeginSpan(ParseTraceparent(Header("01")));
  EXPECT_EQ(ids.own.trace_id, kTrace);
  EXPECT_EQ(ids.parent_id, kParent);
  EXPECT_NE(ids.own.span_id, kParent);
  EXPECT_TRUE(ids.own.sampled);
  EXPECT_FALSE(BeginSpan({}).own);
  Sample(1);
  const SpanIds begun = BeginSpan({});
  EXPECT_TRUE(ParseTraceparent(ToTraceparent(begun.own)).sampled);
  EXPECT_EQ(begun.parent_id, "");
  EXPECT_FALSE(BeginSpan(ParseTraceparent(Header("00"))).own.sampled) << "the caller decides";
}

TEST_F(SinkTest, TheShareOfTracesThatBeginHereIsTheOneThatWasSet) {
  Sample(0.25);
  int sampled = 0;
  std::set<std::string> ids;
  for (int i = 0; i < 4000; ++i) {
    const SpanIds span = BeginSpan({});
    sampled += span.own.sampled;
    ids.insert(span.own.trace_id);
  }
  EXPECT_GT(sampled, 800);
  EXPECT_LT(sampled, 1200);
  EXPECT_EQ(ids.size(), 4000u);
}

TEST_F(SinkTest, ARequestLeavesItsSpanAndThoseOfItsStages) {
  Sample(1);
  RequestLog line;
  line.request_id = "req_1";
  line.method = Method::kEncode;
  line.took = absl::Milliseconds(10);
  line.stages = {{Stage::kQueue, absl::Milliseconds(2)}, {Stage::kVision, absl::Milliseconds(5)}};
  line.status = absl::DeadlineExceededError("late");
  LogRequest(line);
  EXPECT_TRUE(spans_.empty()) << "it is of no trace";
  line.span = BeginSpan(ParseTraceparent(Header("01")));
  LogRequest(line);
  ASSERT_EQ(spans_.size(), 3u);
  EXPECT_EQ(spans_[0].name, "encode");
  EXPECT_EQ(spans_[0].parent_id, kParent);
  EXPECT_EQ(spans_[0].end - spans_[0].start, line.took);
  EXPECT_EQ(spans_[0].code, absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(spans_[1].name, "queue");
  EXPECT_EQ(spans_[2].name, "vision");
  EXPECT_EQ(spans_[2].parent_id, spans_[0].span_id);
  EXPECT_EQ(spans_[2].start, spans_[1].end);
  spans_.clear();
  line.span = BeginSpan(ParseTraceparent(Header("00")));
  LogRequest(line);
  EXPECT_TRUE(spans_.empty()) << "it is not sampled";
}

}  // namespace
}  // namespace chord::obs
