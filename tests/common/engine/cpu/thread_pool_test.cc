#include "common/engine/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>
#include <vector>

namespace chord::engine {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  ThreadPool pool(4);
  for (int round = 0; round < 2'000; ++round) {
    const int tasks = round % 23;
    std::vector<std::atomic<int>> runs(tasks);
    pool.Run(tasks, [&](int64_t task, int worker) {
      EXPECT_GE(worker, 0);
      EXPECT_LT(worker, 4);
      ++runs[task];
    });
    for (const auto& count : runs) EXPECT_EQ(count.load(), 1);
  }
}

TEST(ThreadPool, ReturnsOnlyWhenAllAreDone) {
  ThreadPool pool(3);
  for (int round = 0; round < 200; ++round) {
    int64_t sums[8] = {};  // on this stack: a late task would write into what comes after
    pool.Run(8, [&](int64_t task, int) {
      for (int i = 0; i < 1'000; ++i) sums[task] += i;
    });
    for (int64_t sum : sums) EXPECT_EQ(sum, 499'500);
  }
}

TEST(ThreadPool, GivesConcurrentTasksDifferentWorkers) {
  ThreadPool pool(4);
  std::vector<std::atomic<bool>> busy(4);
  pool.Run(400, [&](int64_t, int worker) {
    EXPECT_FALSE(busy[worker].exchange(true));
    std::this_thread::yield();
    busy[worker] = false;
  });
}

TEST(ThreadPool, ServesSeveralCallers) {
  ThreadPool pool(3);
  std::atomic<int> runs{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) pool.Run(5, [&](int64_t, int) { ++runs; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(runs.load(), 4 * 200 * 5);
}

TEST(ThreadPool, WorksAlone) {
  ThreadPool pool(1);
  int runs = 0;
  pool.Run(7, [&](int64_t, int worker) {
    EXPECT_EQ(worker, 0);
    ++runs;
  });
  EXPECT_EQ(runs, 7);
}

}  // namespace
}  // namespace chord::engine
