#include "services/gateway/parallel_for.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "absl/synchronization/barrier.h"
#include "absl/synchronization/notification.h"

namespace chord::gateway {
namespace {

TEST(ParallelFor, CallsEachOnceAndNoMoreThanWidthAtATime) {
  Executor executor(8, 8);
  std::vector<std::atomic<int>> calls(100);
  std::atomic<int> now{0}, most{0};
  ParallelFor(executor, 100, 3, [&](int i) {
    const int running = ++now;
    int seen = most;
    while (running > seen && !most.compare_exchange_weak(seen, running)) {
    }
    ++calls[static_cast<size_t>(i)];
    --now;
  });
  EXPECT_TRUE(std::all_of(calls.begin(), calls.end(), [](const auto& n) { return n == 1; }));
  EXPECT_LE(most, 3);
}

TEST(ParallelFor, RunsSideBySide) {
  Executor executor(4, 4);
  auto* barrier = new absl::Barrier(3);
  ParallelFor(executor, 3, 3, [&](int) {
    if (barrier->Block()) delete barrier;
  });
}

TEST(ParallelFor, DoesAllItselfWhenNoThreadIsFree) {
  Executor executor(1, 1);
  absl::Notification go, going;
  ASSERT_TRUE(executor.TryRun([&] {
    going.Notify();
    go.WaitForNotification();
  }));
  going.WaitForNotification();
  int calls = 0;
  ParallelFor(executor, 5, 4, [&](int) { ++calls; });  // one call waits for the busy thread
  EXPECT_EQ(calls, 5);
  go.Notify();
}

}  // namespace
}  // namespace chord::gateway
