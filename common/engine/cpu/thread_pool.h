// The engine's CPU threads: fork, share out tasks, join. Why not OpenMP: its threads spin for
// milliseconds after each region, which takes cores from the other processes of the host, and a
// region waits for every thread even when one has lost its core.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace chord::engine {

// Tasks are claimed one by one, so the caller finishes a region alone when no worker wakes in time.
// Which thread runs a task never changes its result.
class ThreadPool {
 public:
  // `threads` >= 1 counts the caller of Run.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs fn(task, worker) for every task in [0, tasks) and returns when all are done. `worker` is
  // in [0, threads()) and unique among those running at once. `fn` must not throw or call Run.
  // Regions of different callers run one after another.
  void Run(int64_t tasks, absl::FunctionRef<void(int64_t task, int worker)> fn);

 private:
  void Work(int worker);
  // Claims and runs tasks of the current region until none is left.
  bool Drain(int worker);

  // Generation of the region in the high half, unclaimed tasks in the low half: a claim and the
  // check that the region is still the same are one compare-and-swap.
  std::atomic<uint64_t> state_{0};
  std::atomic<int64_t> unfinished_{0};
  const absl::FunctionRef<void(int64_t, int)>* fn_ = nullptr;  // valid while tasks are unfinished
  std::atomic<uint32_t> epoch_{0};                             // what sleeping workers wait on
  std::atomic<bool> stop_{false};
  std::mutex region_;
  std::vector<std::thread> workers_;
};

// The pool of the process. InitEngine sets its size before first use; later calls only read it.
void SetCpuThreads(int threads);
ThreadPool& CpuThreads();

}  // namespace chord::engine
