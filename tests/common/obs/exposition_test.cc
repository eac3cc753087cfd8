#include "common/obs/exposition.h"

#include <gtest/gtest.h>

#include "absl/strings/str_split.h"
#include "common/obs/metrics.h"

namespace chord::obs {
namespace {

TEST(MergeExpositions, AFamilyHasOneHeadAndAllItsSeries) {
  const std::string own =
      "# HELP a_total A.\n# TYPE a_total counter\na_total 1\n"
      "# HELP b B.\n# TYPE b gauge\nb{x=\"1\"} 2\n";
  const std::string other =
      "# HELP b B.\n# TYPE b gauge\nb{x=\"1\"} 3\n"
      "# HELP c C.\n# TYPE c gauge\nc 4\n";
  EXPECT_EQ(MergeExpositions(own, {{"v-0", other}, {"l-\"0", other}}),
            "# HELP a_total A.\n# TYPE a_total counter\na_total 1\n"
            "# HELP b B.\n# TYPE b gauge\nb{x=\"1\"} 2\n"
            "b{worker=\"v-0\",x=\"1\"} 3\nb{worker=\"l-\\\"0\",x=\"1\"} 3\n"
            "# HELP c C.\n# TYPE c gauge\nc{worker=\"v-0\"} 4\nc{worker=\"l-\\\"0\"} 4\n");
}

TEST(MergeExpositions, WithoutOthersNothingChanges) {
  Metrics metrics(Role::kGateway, "1");
  const std::string own = metrics.Serialize();
  EXPECT_EQ(MergeExpositions(own, {}), own);
}

TEST(MergeExpositions, WhatIsNoExpositionAddsNothing) {
  EXPECT_EQ(MergeExpositions("", {{"w", "<html>\nx 1\n#\n# TYPE d\n"}}), "");
}

TEST(MergeExpositions, ARealPageKeepsItsSamples) {
  Metrics gateway(Role::kGateway, "1"), worker(Role::kLlmWorker, "1");
  worker.StageTook(Stage::kPrefill, absl::Milliseconds(3));
  const std::string merged =
      MergeExpositions(gateway.Serialize(), {{"language-0", worker.Serialize()}});
  EXPECT_NE(merged.find("chord_stage_seconds_count{worker=\"language-0\",stage=\"prefill\"} 1\n"),
            std::string::npos);
  int heads = 0;
  for (absl::string_view line : absl::StrSplit(merged, '\n')) {
    heads += line == "# TYPE chord_stage_seconds histogram";
  }
  EXPECT_EQ(heads, 1);
}

}  // namespace
}  // namespace chord::obs
