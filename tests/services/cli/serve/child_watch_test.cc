#include "services/cli/serve/child_watch.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <vector>

namespace chord::cli {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1'000'000);
absl::Time At(int seconds) { return kStart + absl::Seconds(seconds); }

ChildWatch Started() {
  ChildWatch watch({.start_within = absl::Seconds(60),
                    .hang_after = absl::Seconds(10),
                    .drain = absl::Seconds(15),
                    .soft_bytes = 1000,
                    .hard_bytes = 2000});
  watch.Started(kStart);
  return watch;
}

TEST(ChildWatch, AProcessHasLongerForItsFirstAnswerThanForTheNext) {
  ChildWatch watch = Started();
  EXPECT_EQ(watch.Judge(At(60), 0), Verdict::kGood);
  EXPECT_EQ(watch.Judge(At(61), 0), Verdict::kHung);
  watch.Answered(At(50), false);
  EXPECT_EQ(watch.Judge(At(60), 0), Verdict::kGood);
  EXPECT_EQ(watch.Judge(At(61), 0), Verdict::kHung);
  watch.Answered(At(62), false);
  EXPECT_EQ(watch.Judge(At(63), 0), Verdict::kGood) << "an answer is an answer, ready or not";
}

TEST(ChildWatch, ASoftLimitDrainsAndAHardOneKills) {
  ChildWatch watch = Started();
  EXPECT_EQ(watch.Judge(At(1), 1000), Verdict::kGood);
  EXPECT_EQ(watch.Judge(At(1), 1001), Verdict::kOverSoftLimit);
  EXPECT_EQ(watch.Judge(At(1), 2001), Verdict::kOverHardLimit);
  watch.AskedToEnd(At(2));
  EXPECT_EQ(watch.Judge(At(3), 1001), Verdict::kGood) << "it is draining already";
  EXPECT_EQ(watch.Judge(At(3), 2001), Verdict::kOverHardLimit);
  EXPECT_EQ(watch.Judge(At(18), 1001), Verdict::kDrainOverdue);
}

TEST(ChildWatch, WithoutLimitsMemoryIsNoReason) {
  ChildWatch watch({});
  watch.Started(kStart);
  EXPECT_EQ(watch.Judge(At(1), int64_t{1} << 50), Verdict::kGood);
}

TEST(ChildWatch, ARestartForgetsEverything) {
  ChildWatch watch = Started();
  watch.Answered(At(5), true);
  watch.AskedToEnd(At(6));
  EXPECT_TRUE(watch.was_ready() && watch.is_ending());
  watch.Started(At(100));
  EXPECT_FALSE(watch.was_ready() || watch.is_ready() || watch.is_ending());
  EXPECT_EQ(watch.Judge(At(130), 0), Verdict::kGood);
}

TEST(ChildWatch, OwnMemoryIsWhatTheProcessTook) {
  const int64_t before = OwnMemoryBytes(getpid());
  EXPECT_GT(before, 0);
  const std::vector<char> block(64 << 20, 'x');
  EXPECT_GE(OwnMemoryBytes(getpid()), before + (60 << 20));
  EXPECT_EQ(OwnMemoryBytes(-1), 0);
}

}  // namespace
}  // namespace chord::cli
