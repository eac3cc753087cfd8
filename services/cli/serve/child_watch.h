// Judges one process by what is known of it: when it last answered and how much memory it has.
// Pure: times and figures in, a verdict out.
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "common/obs/metrics.h"

namespace chord::cli {

enum class Verdict {
  kGood,
  kHung,           // it answers no probe: to be killed
  kOverSoftLimit,  // to be drained and started again
  kOverHardLimit,  // to be killed
  kDrainOverdue,   // it was asked to end and has not: to be killed
};
// Why a process that was ended for it is started again.
obs::RestartCause CauseOf(Verdict verdict);

class ChildWatch {
 public:
  struct Limits {
    absl::Duration start_within = absl::Seconds(60);  // the first answer
    absl::Duration hang_after = absl::Seconds(10);    // without an answer, after the first
    absl::Duration drain = absl::Seconds(15);         // from the request to end to the end
    int64_t soft_bytes = 0;                           // of memory of its own; 0: no limit
    int64_t hard_bytes = 0;
  };
  explicit ChildWatch(const Limits& limits) : limits_(limits) {}

  void Started(absl::Time now);
  void Answered(absl::Time now, bool ready);
  void AskedToEnd(absl::Time now);

  Verdict Judge(absl::Time now, int64_t memory_bytes) const;
  bool was_ready() const { return was_ready_; }  // since it was started
  bool is_ready() const { return ready_; }
  bool is_ending() const { return asked_ != absl::InfiniteFuture(); }

 private:
  const Limits limits_;
  absl::Time started_ = absl::InfinitePast();
  absl::Time answered_ = absl::InfinitePast();  // never
  absl::Time asked_ = absl::InfiniteFuture();   // never
  bool ready_ = false, was_ready_ = false;
};

// Memory of a process that would be free if it ended: anonymous and shared, in memory or swapped
// out. 0 when the process is not there. Mapped files (weights) do not count: they are cache.
int64_t OwnMemoryBytes(int pid);

}  // namespace chord::cli
