#include "services/cli/bench/bench_stats.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/cli/bench/bench_sse.h"

namespace chord::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

TEST(PercentileTest, IsTheNearestRank) {
  const std::vector<double> ten = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  const struct {
    double q, value;
  } kCases[] = {{0, 1},    {0.05, 1}, {0.1, 1},   {0.11, 2}, {0.5, 5},
                {0.51, 6}, {0.9, 9},  {0.99, 10}, {1, 10}};
  for (const auto& c : kCases) EXPECT_EQ(Percentile(ten, c.q), c.value) << c.q;
  const double one[] = {7};
  EXPECT_EQ(Percentile(one, 0), 7);
  EXPECT_EQ(Percentile(one, 0.99), 7);
}

TEST(QuantilesTest, DoNotAssumeAnOrder) {
  const Quantiles q = MakeQuantiles({3, 1, 2});
  EXPECT_EQ(q.count, 3);
  EXPECT_EQ(q.p50, 2);
  EXPECT_EQ(q.p99, 3);
  EXPECT_EQ(q.max, 3);
  EXPECT_DOUBLE_EQ(q.mean, 2);
  EXPECT_EQ(MakeQuantiles({}).count, 0);
}

Sample Make(double arrival, double end, Outcome outcome, const char* reason = "") {
  Sample out;
  out.arrival = out.sent = arrival;
  out.end = end;
  out.outcome = outcome;
  out.reason = reason;
  return out;
}

TEST(SummaryTest, RatesCountWhatHappensInTheWindowAndCountsWhatArrivedInIt) {
  const std::vector<Sample> samples = {
      Make(0.5, 2.5, Outcome::kAnswered),  // warm-up, ends inside, over the SLO
      Make(1.9, 2.1, Outcome::kAnswered),  // warm-up, ends inside
      Make(2, 2.5, Outcome::kAnswered),    // the first instant is inside
      Make(3, 4.5, Outcome::kAnswered),    // over the SLO
      Make(5.5, 6.4, Outcome::kAnswered),  // ends after the window
      Make(6, 6.1, Outcome::kAnswered),    // the last instant is outside
      Make(3, 3.01, Outcome::kFailed, "OVERLOADED"),
      Make(3, 3.02, Outcome::kFailed, "OVERLOADED"),
      Make(4, 4.5, Outcome::kFailed, "UNAVAILABLE"),
      Make(4, 4, Outcome::kDropped),
      Make(5, 0, Outcome::kUnfinished),
  };
  const Summary s = Summarize(samples, {2, 6}, 1.0);
  EXPECT_EQ(s.seconds, 4);
  EXPECT_EQ(s.offered, 8);
  EXPECT_EQ(s.answered, 3);
  EXPECT_EQ(s.good, 2);
  EXPECT_EQ(s.failed, 3);
  EXPECT_EQ(s.dropped, 1);
  EXPECT_EQ(s.unfinished, 1);
  EXPECT_DOUBLE_EQ(s.offered_rps, 8 / 4.0);
  EXPECT_DOUBLE_EQ(s.completed_rps, 4 / 4.0);
  EXPECT_DOUBLE_EQ(s.goodput_rps, 2 / 4.0);
  EXPECT_THAT(s.errors, ElementsAre(Pair("OVERLOADED", 2), Pair("UNAVAILABLE", 1)));
  EXPECT_EQ(s.total.count, 3);
  EXPECT_DOUBLE_EQ(s.total.max, 1.5);
  EXPECT_EQ(s.failures.count, 3);
  EXPECT_DOUBLE_EQ(s.failures.p99, 0.5);
  EXPECT_NEAR(s.failures_by_reason.at("OVERLOADED").max, 0.02, 1e-9);
  EXPECT_EQ(s.failures_by_reason.at("OVERLOADED").count, 2);
}

TEST(SummaryTest, WithoutAnSloEveryAnswerIsGood) {
  const std::vector<Sample> samples = {Make(0, 90, Outcome::kAnswered)};
  EXPECT_EQ(Summarize(samples, {0, 100}, 0).good, 1);
  EXPECT_EQ(Summarize(samples, {0, 100}, 90).good, 1) << "the SLO itself is within it";
  EXPECT_EQ(Summarize(samples, {0, 100}, 89.9).good, 0);
}

TEST(SummaryTest, LatenessOfTheGeneratorIsTold) {
  Sample late = Make(1, 3, Outcome::kAnswered);
  late.sent = 1.5;
  const Summary s = Summarize({late}, {0, 10}, 0);
  EXPECT_DOUBLE_EQ(s.lag.max, 0.5);
  EXPECT_DOUBLE_EQ(s.total.max, 2) << "latency counts from the intended arrival";
}

TEST(SummaryTest, AddsUpWhatTheServerSays) {
  Sample one = Make(0, 1, Outcome::kAnswered), two = Make(0, 1, Outcome::kAnswered);
  one.ttft = 0.25;
  one.times.vision_ms = 40;
  one.served_by = ServedBy::kKv;
  one.decode_steps = 3;
  one.boxes = 1;
  one.by_id = true;
  two.decode_steps = 4;
  two.served_by = ServedBy::kNone;
  const Summary s = Summarize({one, two}, {0, 2}, 0);
  EXPECT_EQ(s.ttft.count, 1) << "an unknown time to the first token is no time";
  EXPECT_DOUBLE_EQ(s.vision.max, 0.04);
  EXPECT_EQ(s.decode_steps, 7);
  EXPECT_EQ(s.boxes, 1);
  EXPECT_EQ(s.by_id, 1);
  EXPECT_THAT(s.caches, ElementsAre(Pair(ServedBy::kNone, 1), Pair(ServedBy::kKv, 1)));
}

TEST(SummaryTest, NothingMeasuredIsNoDivisionByZero) {
  const Summary s = Summarize({}, {2, 2}, 1);
  EXPECT_EQ(s.offered_rps, 0);
  EXPECT_EQ(s.total.count, 0);
}

TEST(TimelineTest, SpreadsEventsOverTheBins) {
  const std::vector<Sample> samples = {
      Make(10, 13, Outcome::kAnswered), Make(10.5, 11, Outcome::kAnswered),
      Make(13.9, 13.95, Outcome::kFailed, "X"), Make(9, 20, Outcome::kAnswered)};
  const Timeline t = MakeTimeline(samples, {10, 14}, 1, 2);
  EXPECT_THAT(t.at, ElementsAre(1, 3));
  EXPECT_THAT(t.offered, ElementsAre(1, 0.5));
  EXPECT_THAT(t.answered, ElementsAre(0.5, 0.5));
  EXPECT_THAT(t.good, ElementsAre(0.5, 0));
  EXPECT_THAT(t.failed, ElementsAre(0, 0.5));
  EXPECT_TRUE(MakeTimeline(samples, {1, 1}, 1, 3).at.empty());
}

TEST(CumulativeTest, EndsAtTheLargestValueWithEverything) {
  EXPECT_THAT(Cumulative({3, 1, 2}, 10),
              ElementsAre(Pair(1, 1.0 / 3), Pair(2, 2.0 / 3), Pair(3, 1)));
  std::vector<double> many;
  for (int i = 1; i <= 1000; ++i) many.push_back(i);
  const auto curve = Cumulative(many, 7);
  EXPECT_EQ(curve.size(), 7u);
  EXPECT_THAT(curve.back(), Pair(1000, 1));
  EXPECT_TRUE(Cumulative({}, 5).empty());
}

std::string Told(const std::vector<SseEvent>& events) {
  std::string out;
  for (const SseEvent& event : events) out += "<" + event.type + "|" + event.data + ">";
  return out;
}

TEST(SseTest, ReadsEventsHoweverTheyAreCut) {
  const std::string text =
      ": hello\nevent: delta\ndata: {\"a\":1}\n\ndata:x\r\ndata: y\r\n\r\nretry: 5\n\nid: 1\n"
      "event: done\ndata: z\n\n";
  const std::string want = "<delta|{\"a\":1}><|x\ny><done|z>";
  SseParser whole;
  EXPECT_EQ(Told(whole.Add(text)), want);
  SseParser bytes;
  std::string got;
  for (const char& c : text) got += Told(bytes.Add(absl::string_view(&c, 1)));
  EXPECT_EQ(got, want);
}

TEST(SseTest, AnUnfinishedEventIsNone) {
  SseParser parser;
  EXPECT_TRUE(parser.Add("data: x\n").empty());
  EXPECT_EQ(Told(parser.Add("\n")), "<|x>");
}

}  // namespace
}  // namespace chord::cli
