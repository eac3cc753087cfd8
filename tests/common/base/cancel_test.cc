#include "common/base/cancel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "tests/support/has_reason.h"

namespace chord {
namespace {

TEST(CancelTest, DefaultTokenIsNeverCancelled) {
  CancelToken token;
  EXPECT_TRUE(token.Check().ok());
  EXPECT_EQ(token.deadline(), absl::InfiniteFuture());
}

TEST(CancelTest, FirstReasonWins) {
  CancelSource source;
  source.Cancel(errors::WorkerLost("vision"));
  source.Cancel(errors::Cancelled());
  EXPECT_THAT(source.token().Check(), HasReason(Reason::kWorkerLost));
}

TEST(CancelTest, PassedDeadlineReadsAsDeadlineExceeded) {
  CancelSource source(absl::Now() - absl::Seconds(1));
  EXPECT_THAT(source.token().Check(), HasReason(Reason::kDeadlineExceeded));
}

TEST(CancelTest, CallbackRunsOnceAndAtOnceWhenAlreadyCancelled) {
  CancelSource source;
  int runs = 0;
  auto first = source.token().OnCancel([&] { ++runs; });
  source.Cancel();
  source.Cancel();
  EXPECT_EQ(runs, 1);
  auto second = source.token().OnCancel([&] { ++runs; });
  EXPECT_EQ(runs, 2);
}

TEST(CancelTest, DroppedRegistrationNeverRuns) {
  CancelSource source;
  int runs = 0;
  {
    auto registration = source.token().OnCancel([&] { ++runs; });
  }
  source.Cancel();
  EXPECT_EQ(runs, 0);
}

TEST(CancelTest, DroppingARegistrationWaitsForItsRunningCallback) {
  CancelSource source;
  std::atomic<bool> entered{false}, finished{false};
  auto registration = source.token().OnCancel([&] {
    entered = true;
    absl::SleepFor(absl::Milliseconds(50));
    finished = true;
  });
  std::thread canceller([&] { source.Cancel(); });
  while (!entered) std::this_thread::yield();
  registration = CancelToken::Registration();
  EXPECT_TRUE(finished);
  canceller.join();
}

TEST(CancelTest, WaitEndsWhenCancelled) {
  CancelSource source;
  std::thread canceller([&] {
    absl::SleepFor(absl::Milliseconds(20));
    source.Cancel();
  });
  EXPECT_EQ(source.token().WaitUntil(absl::Now() + absl::Minutes(5)).code(),
            absl::StatusCode::kCancelled);
  canceller.join();
}

}  // namespace
}  // namespace chord
