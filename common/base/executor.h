// A bounded pool of threads for work that may block: request handlers. Threads start when needed
// and stay; a task that finds every thread busy waits in a bounded queue or is refused.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace chord {

// Thread-safe.
class Executor {
 public:
  // At most `max_threads` (> 0) tasks run at once, at most `max_queued` (>= 0) wait.
  Executor(int max_threads, int max_queued) : max_threads_(max_threads), max_queued_(max_queued) {}
  // Runs what is queued, then joins. No `TryRun` may run beside it.
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // False when all threads are busy and the queue is full; `task` was dropped then. Never waits.
  // `task` must not throw and must not
  // destroy the executor.
  [[nodiscard]] bool TryRun(std::function<void()> task);

 private:
  void Run();

  const int max_threads_;
  const int max_queued_;
  absl::Mutex mu_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mu_);
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mu_);
  int idle_ ABSL_GUARDED_BY(mu_) = 0;  // threads that run no task, started or starting
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace chord
