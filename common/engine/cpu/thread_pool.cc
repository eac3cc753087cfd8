#include "common/engine/cpu/thread_pool.h"

#include <algorithm>
#include <limits>

namespace chord::engine {
namespace {

// About 20 µs: longer than the serial stretch between two regions of a decode step, short enough
// not to be noticed by other users of the core.
constexpr int kSpins = 1'000;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  for (int worker = 1; worker < std::max(1, threads); ++worker) {
    workers_.emplace_back([this, worker] { Work(worker); });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(int64_t tasks, absl::FunctionRef<void(int64_t, int)> fn) {
  if (tasks <= 0) return;
  std::lock_guard<std::mutex> lock(region_);
  if (tasks == 1 || workers_.empty() || tasks > std::numeric_limits<uint32_t>::max()) {
    for (int64_t task = 0; task < tasks; ++task) fn(task, 0);
    return;
  }
  fn_ = &fn;
  unfinished_.store(tasks, std::memory_order_relaxed);
  const uint64_t generation = (state_.load(std::memory_order_relaxed) >> 32) + 1;
  state_.store(generation << 32 | static_cast<uint64_t>(tasks), std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  Drain(0);
  for (int spins = 0; unfinished_.load(std::memory_order_acquire) != 0; ++spins) {
    // A worker that holds the last task may have lost its core: let it have this one.
    if (spins < kSpins)
      Pause();
    else
      std::this_thread::yield();
  }
}

bool ThreadPool::Drain(int worker) {
  bool any = false;
  uint64_t seen = state_.load(std::memory_order_acquire);
  while ((seen & 0xFFFFFFFF) != 0) {
    if (!state_.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel,
                                      std::memory_order_acquire)) {
      continue;
    }
    (*fn_)(static_cast<int64_t>(seen & 0xFFFFFFFF) - 1, worker);
    unfinished_.fetch_sub(1, std::memory_order_acq_rel);
    any = true;
    seen = state_.load(std::memory_order_acquire);
  }
  return any;
}

void ThreadPool::Work(int worker) {
  while (!stop_.load(std::memory_order_relaxed)) {
    const uint32_t epoch = epoch_.load(std::memory_order_acquire);
    bool worked = Drain(worker);
    for (int spins = 0; !worked && spins < kSpins; ++spins) {
      Pause();
      worked = Drain(worker);
    }
    if (!worked) epoch_.wait(epoch, std::memory_order_acquire);
  }
}

namespace {
std::atomic<int> configured_threads{0};
}

void SetCpuThreads(int threads) { configured_threads.store(threads); }

ThreadPool& CpuThreads() {
  static ThreadPool* pool = [] {
    const int threads = configured_threads.load();
    return new ThreadPool(threads > 0 ? threads
                                      : static_cast<int>(std::thread::hardware_concurrency()));
  }();
  return *pool;
}

}  // namespace chord::engine
