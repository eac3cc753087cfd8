// Offers one load to a server and notes what became of every request.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "services/cli/bench/bench_client.h"
#include "services/cli/bench/bench_stats.h"
#include "services/cli/bench/workload.h"

namespace chord::cli {

// Wakes the generator: something ended, or the user wants to stop. One for the whole program.
class BenchWaker {
 public:
  BenchWaker();
  ~BenchWaker();
  BenchWaker(const BenchWaker&) = delete;
  BenchWaker& operator=(const BenchWaker&) = delete;

  // From now on the first SIGINT or SIGTERM asks to stop; the next one ends the program.
  void CatchSignals();
  bool interrupted() const;
  void Wake();  // thread-safe
  // Until Wake, a signal or `until`.
  void WaitUntil(absl::Time until);

 private:
  const int fd_;
};

struct BenchLoad {
  double rate = 0;      // > 0: open loop, requests per second
  int concurrency = 0;  // > 0: closed loop, requests outstanding
  absl::Duration warmup;
  absl::Duration duration;
  absl::Duration timeout;  // of each request, from its arrival
  int max_outstanding = 512;
  double reuse = 0;
  uint64_t seed = 1;
};

struct BenchResult {
  std::vector<Sample> samples;
  Window window;
  bool interrupted = false;
  bool full = false;  // ended early: kMaxBenchSamples
};

inline constexpr size_t kMaxBenchSamples = 5'000'000;

// `image_ids`: one an image, "" where there is none; kept up to date with what the server says, so
// that the next load of a sweep goes on with it. `on_progress` (may be null) is called about once a
// second with the seconds that have passed and the answers so far. Blocks for warmup + duration and
// until the last request has ended.
BenchResult RunBench(BenchClient& client, const Dataset& dataset, const BenchLoad& load,
                     std::vector<std::string>& image_ids, BenchWaker& waker,
                     const std::function<void(double, int64_t)>& on_progress);

}  // namespace chord::cli
