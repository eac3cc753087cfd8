// Which worker takes a request. Pure: a function of what is known about the workers right now.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace chord::gateway {

// One worker as its last status tells it, with what we have sent it ourselves since.
struct WorkerView {
  bool alive = false;  // its status stream is open and beats
  bool ready = false;
  std::string fingerprint;
  int queued = 0;
  int queue_capacity = 0;  // 0: unknown
  int in_flight = 0;
  int ours_in_flight = 0;  // of those, or not yet among those, ours
  int64_t load = 0;        // patches or tokens in flight, as reported
  int64_t ours_load = 0;
  bool excluded = false;      // not for this request: it has just failed there
  bool cooling_down = false;  // only if there is no other
};

struct Picked {
  enum class Outcome {
    kFound,
    kNoneReady,  // wait, or UNAVAILABLE
    kMismatch,   // there are ready ones, but all hold another model
    kFull,       // there are eligible ones, but all their queues are full
  };
  Outcome outcome = Outcome::kNoneReady;
  int index = -1;  // when found
};

// The least loaded of the eligible ones. Other gateways' share is only in the reports, our newest
// requests only in our own count, so the larger of the two decides. `turn` breaks ties in rotation.
// `preferred` (-1: none) is taken whatever its load as long as it is eligible and its queue has
// room: what it holds of the image is worth more than a shorter queue.
Picked PickWorker(absl::Span<const WorkerView> workers, absl::string_view fingerprint,
                  uint64_t turn, int preferred = -1);

}  // namespace chord::gateway
