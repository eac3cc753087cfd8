#include "services/vision_worker/pixel_budget.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"

namespace chord::vision_worker {
namespace {

TEST(Budget, GivesWhatFitsAndTakesItBack) {
  Budget budget(100);
  {
    auto a = budget.TryTake(60);
    EXPECT_TRUE(a);
    EXPECT_FALSE(budget.TryTake(41));
    auto b = budget.TryTake(40);
    EXPECT_TRUE(b);
    EXPECT_EQ(budget.taken(), 100);
    a.Return();
    EXPECT_EQ(budget.taken(), 40);
  }
  EXPECT_EQ(budget.taken(), 0);
}

TEST(Budget, ServesWhatIsLargerThanTheWholeAlone) {
  Budget budget(100);
  {
    auto giant = budget.TryTake(1000);
    EXPECT_TRUE(giant);
    EXPECT_FALSE(budget.TryTake(1));
  }
  auto small = budget.TryTake(1);
  EXPECT_FALSE(budget.TryTake(1000));
}

TEST(Budget, AWaiterIsCancelledAndLeavesTheLine) {
  Budget budget(100);
  auto all = budget.TryTake(100);
  CancelSource source;
  std::thread canceller([&] { source.Cancel(errors::Cancelled()); });
  EXPECT_EQ(ErrorReason(budget.Take(1, source.token()).status()), "CANCELLED");
  canceller.join();
  all.Return();
  EXPECT_TRUE(budget.TryTake(100)) << "no waiter is left";
}

TEST(Budget, AWaiterGivesUpAtItsDeadline) {
  Budget budget(100);
  auto all = budget.TryTake(100);
  CancelSource source(absl::Now() + absl::Milliseconds(10));
  EXPECT_EQ(ErrorReason(budget.Take(1, source.token()).status()), "DEADLINE_EXCEEDED");
}

TEST(Budget, ALargeRequestIsNotOvertaken) {
  Budget budget(100);
  auto first = budget.TryTake(50);
  absl::Notification large_has_it;
  std::thread large([&] {
    auto share = budget.Take(100, CancelToken());
    EXPECT_TRUE(share.ok());
    large_has_it.Notify();
  });
  while (budget.TryTake(10)) absl::SleepFor(absl::Milliseconds(1));  // until it stands in line
  EXPECT_FALSE(large_has_it.HasBeenNotified());
  first.Return();
  large.join();
}

TEST(Budget, IsNeverOverdrawnByManyThreads) {
  Budget budget(10);
  std::atomic<int64_t> held{0}, worst{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const int64_t amount = 1 + (t + i) % 7;
        auto share = budget.Take(amount, CancelToken());
        const int64_t now = held += amount;
        int64_t seen = worst;
        while (now > seen && !worst.compare_exchange_weak(seen, now)) {
        }
        held -= amount;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_LE(worst, 10);
  EXPECT_EQ(budget.taken(), 0);
}

}  // namespace
}  // namespace chord::vision_worker
