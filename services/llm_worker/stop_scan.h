// Stop sequences of an answer that is being written. Pure.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace chord::llm_worker {

inline constexpr size_t kMaxStops = 4;
inline constexpr size_t kMaxStopBytes = 256;

struct StopScan {
  size_t release = 0;    // bytes of the text that are the answer's whatever follows
  bool stopped = false;  // a stop sequence begins there: the answer ends at `release`
};

// `text`: the answer so far; `from`: what the scan before this one released, 0 at first. The first
// stop sequence counts. What may be the
// beginning of one is not released. Without `stops` all is. None of them is empty.
StopScan ScanForStop(absl::string_view text, size_t from, absl::Span<const std::string> stops);

}  // namespace chord::llm_worker
