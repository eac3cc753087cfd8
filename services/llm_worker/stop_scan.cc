#include "services/llm_worker/stop_scan.h"

#include <algorithm>

#include "absl/strings/match.h"

namespace chord::llm_worker {

StopScan ScanForStop(absl::string_view text, size_t from, absl::Span<const std::string> stops) {
  const absl::string_view rest = text.substr(std::min(from, text.size()));
  size_t found = absl::string_view::npos;
  for (const std::string& stop : stops) found = std::min(found, rest.find(stop));
  if (found != absl::string_view::npos) return {from + found, true};
  size_t held = 0;
  for (const std::string& stop : stops) {
    for (size_t n = std::min(stop.size() - 1, rest.size()); n > held; --n) {
      if (absl::EndsWith(rest, absl::string_view(stop).substr(0, n))) held = n;
    }
  }
  return {text.size() - held, false};
}

}  // namespace chord::llm_worker
