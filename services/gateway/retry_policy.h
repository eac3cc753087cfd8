// When a failed attempt is made again. Pure.
#pragma once

#include "absl/status/status.h"
#include "services/gateway/routing/worker_failure.h"

namespace chord::gateway {

struct AttemptFacts {
  bool answered = false;
  WorkerFailure failure;
  bool produced = false;   // the client has seen some of the answer
  bool cancelled = false;  // by the client
  int retries = 0;         // before this attempt
};

// Whether another worker, or the same one after a restart, may answer what this attempt did not.
// The retry budget has the last word.
inline bool MayRetry(const AttemptFacts& facts) {
  constexpr int kMaxRetries = 1;
  return !facts.answered && facts.failure.worker_lost && !facts.produced && !facts.cancelled &&
         facts.retries < kMaxRetries;
}

// Whether a conversation that is shortened may fit where it did not.
bool OutgrowsModel(const absl::Status& status);

}  // namespace chord::gateway
