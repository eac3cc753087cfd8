#include "services/cli/serve/restart_policy.h"

#include <algorithm>

namespace chord::cli {

namespace {
constexpr absl::Duration kCalm = absl::Seconds(20);  // after this long a death starts a new row
constexpr absl::Duration kFirstDelay = absl::Milliseconds(100);
constexpr absl::Duration kLastDelay = absl::Seconds(10);
}  // namespace

absl::Duration RestartPolicy::OnExit(absl::Duration lived, bool was_ready) {
  failed_starts_ = was_ready ? 0 : failed_starts_ + 1;
  if (lived >= kCalm) deaths_ = 0;
  ++deaths_;
  if (deaths_ == 1) return absl::ZeroDuration();
  return std::min(kLastDelay, kFirstDelay * (1 << std::min(deaths_ - 2, 10)));
}

}  // namespace chord::cli
