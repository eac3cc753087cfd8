#include "services/cli/serve/restart_policy.h"

#include <gtest/gtest.h>

namespace chord::cli {
namespace {

TEST(RestartPolicyTest, FirstDeathIsAnsweredAtOnceAndLaterOnesWaitLonger) {
  RestartPolicy policy;
  EXPECT_EQ(policy.OnExit(absl::Seconds(1), true), absl::ZeroDuration());
  EXPECT_EQ(policy.OnExit(absl::Seconds(1), true), absl::Milliseconds(100));
  EXPECT_EQ(policy.OnExit(absl::Seconds(1), true), absl::Milliseconds(200));
}

TEST(RestartPolicyTest, WaitIsBounded) {
  RestartPolicy policy;
  absl::Duration last;
  for (int i = 0; i < 100; ++i) last = policy.OnExit(absl::ZeroDuration(), true);
  EXPECT_EQ(last, absl::Seconds(10));
}

TEST(RestartPolicyTest, ACalmSpellForgivesEarlierDeaths) {
  RestartPolicy policy;
  for (int i = 0; i < 10; ++i) policy.OnExit(absl::ZeroDuration(), true);
  EXPECT_EQ(policy.OnExit(absl::Minutes(5), true), absl::ZeroDuration());
}

TEST(RestartPolicyTest, OnlyStartsThatFailAreACrashLoop) {
  RestartPolicy policy;
  for (int i = 1; i <= 3; ++i) {
    policy.OnExit(absl::Seconds(1), false);
    EXPECT_EQ(policy.failed_starts(), i);
  }
  policy.OnExit(absl::Seconds(1), true);
  EXPECT_EQ(policy.failed_starts(), 0);
}

}  // namespace
}  // namespace chord::cli
