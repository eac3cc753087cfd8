#include "services/cli/serve/child_watch.h"

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace chord::cli {

obs::RestartCause CauseOf(Verdict verdict) {
  switch (verdict) {
    case Verdict::kHung:
      return obs::RestartCause::kHang;
    case Verdict::kOverSoftLimit:
    case Verdict::kOverHardLimit:
    case Verdict::kDrainOverdue:
      return obs::RestartCause::kMemory;
    case Verdict::kGood:
      break;
  }
  return obs::RestartCause::kExit;
}

void ChildWatch::Started(absl::Time now) {
  started_ = now;
  answered_ = absl::InfinitePast();
  asked_ = absl::InfiniteFuture();
  ready_ = was_ready_ = false;
}

void ChildWatch::Answered(absl::Time now, bool ready) {
  answered_ = now;
  ready_ = ready;
  was_ready_ = was_ready_ || ready;
}

void ChildWatch::AskedToEnd(absl::Time now) { asked_ = now; }

Verdict ChildWatch::Judge(absl::Time now, int64_t memory_bytes) const {
  if (limits_.hard_bytes > 0 && memory_bytes > limits_.hard_bytes) return Verdict::kOverHardLimit;
  if (is_ending()) {
    return now - asked_ > limits_.drain ? Verdict::kDrainOverdue : Verdict::kGood;
  }
  const bool silent = answered_ == absl::InfinitePast() ? now - started_ > limits_.start_within
                                                        : now - answered_ > limits_.hang_after;
  if (silent) return Verdict::kHung;
  if (limits_.soft_bytes > 0 && memory_bytes > limits_.soft_bytes) return Verdict::kOverSoftLimit;
  return Verdict::kGood;
}

int64_t OwnMemoryBytes(int pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/status"));
  int64_t kib = 0, sum = 0;
  for (std::string word; file >> word;) {
    if ((word == "RssAnon:" || word == "RssShmem:" || word == "VmSwap:") && file >> kib) sum += kib;
  }
  return sum << 10;
}

}  // namespace chord::cli
