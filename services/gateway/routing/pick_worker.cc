#include "services/gateway/routing/pick_worker.h"

#include <algorithm>
#include <tuple>

namespace chord::gateway {

Picked PickWorker(absl::Span<const WorkerView> workers, absl::string_view fingerprint,
                  uint64_t turn, int preferred) {
  Picked out;
  bool mismatch = false, full = false;
  std::tuple<bool, int64_t, int> least;
  for (size_t i = 0; i < workers.size(); ++i) {
    const size_t at = (i + turn) % workers.size();
    const WorkerView& worker = workers[at];
    if (!worker.alive || !worker.ready || worker.excluded) continue;
    if (worker.fingerprint != fingerprint) {
      mismatch = true;
      continue;
    }
    if (worker.queue_capacity > 0 && worker.queued >= worker.queue_capacity) {
      full = true;
      continue;
    }
    if (static_cast<int>(at) == preferred && !worker.cooling_down) {
      out.index = preferred;
      break;
    }
    const std::tuple<bool, int64_t, int> weight = {
        worker.cooling_down, std::max(worker.load, worker.ours_load),
        std::max(worker.in_flight, worker.ours_in_flight)};
    if (out.index >= 0 && !(weight < least)) continue;
    least = weight;
    out.index = static_cast<int>(at);
  }
  out.outcome = out.index >= 0 ? Picked::Outcome::kFound
                : full         ? Picked::Outcome::kFull
                : mismatch     ? Picked::Outcome::kMismatch
                               : Picked::Outcome::kNoneReady;
  return out;
}

}  // namespace chord::gateway
