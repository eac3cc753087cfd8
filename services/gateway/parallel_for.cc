#include "services/gateway/parallel_for.h"

#include <algorithm>
#include <atomic>
#include <memory>

#include "absl/synchronization/mutex.h"

namespace chord::gateway {
namespace {

// Outlives the call when a lane gets its thread only after all is done; it finds nothing then.
struct Lanes {
  std::atomic<int> next{0};
  int count = 0;
  const std::function<void(int)>* fn = nullptr;  // valid while done < count
  absl::Mutex mu;
  int done ABSL_GUARDED_BY(mu) = 0;

  void Run() {
    for (int i; (i = next.fetch_add(1)) < count;) {
      (*fn)(i);
      absl::MutexLock lock(&mu);
      ++done;
    }
  }
};

}  // namespace

void ParallelFor(Executor& executor, int count, int width, const std::function<void(int)>& fn) {
  auto lanes = std::make_shared<Lanes>();
  lanes->count = count;
  lanes->fn = &fn;
  for (int i = 1; i < std::min(width, count); ++i) {
    if (!executor.TryRun([lanes] { lanes->Run(); })) break;
  }
  lanes->Run();
  absl::MutexLock lock(&lanes->mu);
  const auto all_done = [&]() ABSL_SHARED_LOCKS_REQUIRED(lanes->mu) {
    return lanes->done == lanes->count;
  };
  lanes->mu.Await(absl::Condition(&all_done));
}

}  // namespace chord::gateway
