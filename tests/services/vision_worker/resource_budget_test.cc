#include "services/vision_worker/resource_budget.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "tests/support/has_reason.h"

namespace chord::vision_worker {
namespace {

TEST(ResourceBudgetTest, GrantsWhatFitsAndTakesItBack) {
  ResourceBudget budget(100);
  {
    auto a = budget.TryAcquire(60);
    EXPECT_TRUE(a);
    EXPECT_FALSE(budget.TryAcquire(41));
    auto b = budget.TryAcquire(40);
    EXPECT_TRUE(b);
    EXPECT_EQ(budget.in_use(), 100);
    a.Release();
    EXPECT_EQ(budget.in_use(), 40);
  }
  EXPECT_EQ(budget.in_use(), 0);
}

TEST(ResourceBudgetTest, GrantsMoreThanItsCapacityAlone) {
  ResourceBudget budget(100);
  {
    auto giant = budget.TryAcquire(1000);
    EXPECT_TRUE(giant);
    EXPECT_FALSE(budget.TryAcquire(1));
  }
  auto small = budget.TryAcquire(1);
  EXPECT_FALSE(budget.TryAcquire(1000));
}

TEST(ResourceBudgetTest, ACancelledWaiterLeaves) {
  ResourceBudget budget(100);
  auto all = budget.TryAcquire(100);
  CancelSource source;
  std::thread canceller([&] { source.Cancel(errors::Cancelled()); });
  EXPECT_THAT(budget.Acquire(1, source.token()).status(), HasReason(Reason::kCancelled));
  canceller.join();
  all.Release();
  EXPECT_TRUE(budget.TryAcquire(100)) << "no waiter is left";
}

TEST(ResourceBudgetTest, AWaiterLeavesAtItsDeadline) {
  ResourceBudget budget(100);
  auto all = budget.TryAcquire(100);
  CancelSource source(absl::Now() + absl::Milliseconds(10));
  EXPECT_THAT(budget.Acquire(1, source.token()).status(), HasReason(Reason::kDeadlineExceeded));
}

TEST(ResourceBudgetTest, ALargeRequestIsNotOvertaken) {
  ResourceBudget budget(100);
  auto first = budget.TryAcquire(50);
  absl::Notification large_granted;
  std::thread large([&] {
    auto permit = budget.Acquire(100, CancelToken());
    EXPECT_TRUE(permit.ok());
    large_granted.Notify();
  });
  while (budget.TryAcquire(10)) absl::SleepFor(absl::Milliseconds(1));  // until it waits
  EXPECT_FALSE(large_granted.HasBeenNotified());
  first.Release();
  large.join();
}

TEST(ResourceBudgetTest, IsNeverOverdrawnByManyThreads) {
  ResourceBudget budget(10);
  std::atomic<int64_t> held{0}, worst{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const int64_t amount = 1 + (t + i) % 7;
        auto permit = budget.Acquire(amount, CancelToken());
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
  EXPECT_EQ(budget.in_use(), 0);
}

}  // namespace
}  // namespace chord::vision_worker
