#include "common/base/executor.h"

#include <utility>

namespace chord {

Executor::~Executor() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

bool Executor::TryRun(std::function<void()> task) {
  absl::MutexLock lock(&mu_);
  // Idle threads may already have their task in the queue.
  const int spare = idle_ - static_cast<int>(queue_.size());
  if (spare <= 0) {
    if (static_cast<int>(threads_.size()) < max_threads_) {
      ++idle_;
      threads_.emplace_back([this] { Run(); });
    } else if (-spare >= max_queued_) {
      return false;
    }
  }
  queue_.push_back(std::move(task));
  return true;
}

void Executor::Run() {
  while (true) {
    std::function<void()> task;
    {
      absl::MutexLock lock(&mu_);
      mu_.Await(absl::Condition(
          +[](Executor* self) ABSL_EXCLUSIVE_LOCKS_REQUIRED(self->mu_) {
            return self->stop_ || !self->queue_.empty();
          },
          this));
      --idle_;
      if (queue_.empty()) return;
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    task();
    task = nullptr;  // what it holds goes before the thread counts as idle
    absl::MutexLock lock(&mu_);
    ++idle_;
  }
}

}  // namespace chord
