#include "services/cli/bench/bench_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace chord::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

BenchSetting Setting() {
  BenchSetting out;
  out.transport = "grpc";
  out.server = "h:1";
  out.data = "demo";
  out.slo_seconds = 1;
  return out;
}

BenchRun MakeRun(double rate) {
  BenchRun out;
  out.rate = rate;
  out.window = {0, 10};
  for (int i = 0; i < 20; ++i) {
    Sample sample;
    sample.arrival = sample.sent = i * 0.5;
    sample.end = sample.arrival + 0.1 + i * 0.05;
    sample.ttft = 0.05;
    sample.outcome = Outcome::kAnswered;
    if (i % 5 == 4) {
      sample.outcome = Outcome::kFailed;
      sample.reason = "OVERLOADED";
    }
    out.samples.push_back(sample);
  }
  out.summary = Summarize(out.samples, out.window, 1);
  return out;
}

TEST(BenchJsonTest, OneRunIsOneObjectWithTheNamesToolsRelyOn) {
  const auto json = nlohmann::json::parse(BenchJson(Setting(), {MakeRun(2)}));
  EXPECT_DOUBLE_EQ(json["offered_rps"], 2.0);
  EXPECT_GT(json["completed_rps"].get<double>(), json["goodput_rps"].get<double>() - 1e-9);
  for (const char* name : {"ttft_seconds", "total_seconds"}) {
    for (const char* q : {"p50", "p90", "p99"}) EXPECT_TRUE(json[name][q].is_number()) << name << q;
  }
  EXPECT_EQ(json["errors"], nlohmann::json({{"OVERLOADED", 4}}));
  EXPECT_EQ(json["loop"], "open");
  EXPECT_EQ(json["dropped_by_bench"], 0);
  EXPECT_EQ(json["ttft_source"], "timing");
}

TEST(BenchJsonTest, FiguresThatDoNotExistAreNullNotZero) {
  BenchRun none = MakeRun(2);
  for (Sample& sample : none.samples) sample.outcome = Outcome::kUnfinished;
  none.summary = Summarize(none.samples, none.window, 1);
  const auto json = nlohmann::json::parse(BenchJson(Setting(), {none}));
  EXPECT_TRUE(json["total_seconds"]["p50"].is_null());
  EXPECT_EQ(json["total_seconds"]["count"], 0);
  EXPECT_EQ(json["completed_rps"], 0);
}

TEST(BenchJsonTest, ASweepIsAListOfRuns) {
  const auto json = nlohmann::json::parse(BenchJson(Setting(), {MakeRun(2), MakeRun(4)}));
  ASSERT_EQ(json["runs"].size(), 2u);
  EXPECT_EQ(json["runs"][1]["rate"], 4);
  EXPECT_EQ(json["server"], "h:1");
}

TEST(BenchTextTest, SaysWhatWasNotSentAndWhoWasLate) {
  BenchRun run = MakeRun(2);
  EXPECT_THAT(BenchText(Setting(), {run}), Not(HasSubstr("late")));
  EXPECT_THAT(BenchText(Setting(), {run}), HasSubstr("OVERLOADED 4"));
  run.samples[0].outcome = Outcome::kDropped;
  for (Sample& sample : run.samples) sample.sent += 0.5;
  run.interrupted = true;
  run.summary = Summarize(run.samples, run.window, 1);
  const std::string text = BenchText(Setting(), {run, run});
  EXPECT_THAT(text, HasSubstr("1 arrivals were not sent"));
  EXPECT_THAT(text, HasSubstr("500 ms at p99"));
  EXPECT_THAT(text, HasSubstr("Interrupted"));
}

bool HasInk(const image::RgbImage& image) {
  for (size_t i = 0; i < image.rgb.size(); i += 3) {
    if (image.rgb[i] == 0 && image.rgb[i + 1] == 114 && image.rgb[i + 2] == 178) return true;
  }
  return false;
}

TEST(BenchPlotTest, DrawsOneRunAndASweep) {
  for (const std::vector<BenchRun>& runs :
       {std::vector<BenchRun>{MakeRun(2)}, std::vector<BenchRun>{MakeRun(2), MakeRun(4)}}) {
    const image::RgbImage plot = BenchPlot(Setting(), runs);
    EXPECT_EQ(plot.rgb.size(),
              static_cast<size_t>(plot.width) * static_cast<size_t>(plot.height) * 3);
    EXPECT_TRUE(HasInk(plot));
  }
  BenchRun empty;
  empty.rate = 1;
  EXPECT_GT(BenchPlot(Setting(), {empty}).width, 0);
}

}  // namespace
}  // namespace chord::cli
