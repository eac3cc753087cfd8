// When a process that ended is started again. Pure: times in, times out.
#pragma once

#include "absl/time/time.h"

namespace chord::cli {

// The first death after a calm spell is answered at once; deaths in a row wait 0.1, 0.2, 0.4 … 10
// s.
class RestartPolicy {
 public:
  // `lived`: how long the process ran before it ended. Returns how long to wait.
  absl::Duration OnExit(absl::Duration lived);
  int deaths_in_a_row() const { return deaths_; }

 private:
  int deaths_ = 0;
};

}  // namespace chord::cli
