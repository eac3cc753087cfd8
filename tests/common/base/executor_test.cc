#include "common/base/executor.h"

#include <gtest/gtest.h>

#include <atomic>

#include "absl/synchronization/barrier.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"

namespace chord {
namespace {

TEST(Executor, RunsAsManyTasksAtOnceAsItHasThreads) {
  Executor executor(4, 0);
  auto* all = new absl::Barrier(5);
  absl::BlockingCounter done(4);
  const auto meet = [&] {
    if (all->Block()) delete all;
    done.DecrementCount();
  };
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(executor.TryRun(meet));
  if (all->Block()) delete all;
  done.Wait();
}

TEST(Executor, RefusesWhatNeitherRunsNorFitsTheQueue) {
  Executor executor(1, 2);
  absl::Notification started, release;
  ASSERT_TRUE(executor.TryRun([&] {
    started.Notify();
    release.WaitForNotification();
  }));
  started.WaitForNotification();
  std::atomic<int> ran{0};
  EXPECT_TRUE(executor.TryRun([&] { ++ran; }));
  EXPECT_TRUE(executor.TryRun([&] { ++ran; }));
  EXPECT_FALSE(executor.TryRun([&] { ++ran; }));
  release.Notify();
  while (ran < 2) std::this_thread::yield();
}

TEST(Executor, FinishesItsQueueBeforeItGoes) {
  std::atomic<int> ran{0};
  {
    Executor executor(2, 1000);
    for (int i = 0; i < 1000; ++i) ASSERT_TRUE(executor.TryRun([&] { ++ran; }));
  }
  EXPECT_EQ(ran, 1000);
}

}  // namespace
}  // namespace chord
