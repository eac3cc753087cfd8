// When a process that ended is started again. Pure: times in, times out.
#pragma once

#include "absl/time/time.h"

namespace chord::cli {

// The first death after a calm spell is answered at once; deaths in a row wait 0.1, 0.2, 0.4 … 10
// s.
class RestartPolicy {
 public:
  // `lived`: how long the process ran before it ended; `was_ready`: whether it ever was ready.
  // Returns how long to wait.
  absl::Duration OnExit(absl::Duration lived, bool was_ready);
  int deaths_in_a_row() const { return deaths_; }
  // Deaths in a row before the process was ready: a row of them is a crash loop.
  int failed_starts() const { return failed_starts_; }

 private:
  int deaths_ = 0;
  int failed_starts_ = 0;
};

}  // namespace chord::cli
