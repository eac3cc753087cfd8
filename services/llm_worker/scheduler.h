// What runs in the next step, and how long a new request has to wait. Integers and times given as
// arguments: no tensors, no threads, no clock.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"

namespace chord::llm_worker {

struct StepLimits {
  // Prompt tokens of one step: bounds how long a cancel waits for the step to end.
  int prefill_tokens = 512;
  // The same while a sequence decodes: a long prompt must not delay the next tokens for long.
  int prefill_tokens_beside_decode = 256;
  // Draft tokens of one step, of all sequences together: their rows may be wasted. Shared evenly.
  int draft_tokens = 64;
};

struct SlotView {
  int slot = 0;
  int64_t order = 0;      // admission number: lower came first
  int prompt_left = 0;    // prompt tokens that have no KV yet; 0: decoding
  int pending = 1;        // decoding: tokens of the answer that have no KV yet, >= 1
  int draft_tokens = 0;   // to be verified after them, or after the end of the prompt
  bool runnable = false;  // everything the next chunk needs is here
};

struct StepItem {
  int slot = 0;
  int tokens = 0;        // pending ones, or a chunk of the prompt
  int draft_tokens = 0;  // on top of them
  bool operator==(const StepItem&) const = default;
};

// The pending tokens of every decoding sequence, then prompt chunks, oldest first, within the
// limits. Every runnable sequence advances after finitely many steps: decoders in each, prompts in
// order.
std::vector<StepItem> PlanStep(absl::Span<const SlotView> slots, const StepLimits& limits);

// What is known about the load when a request arrives.
struct Load {
  int queued = 0;  // before it
  int running = 0;
  int slots = 1;
  absl::Duration mean_service = absl::ZeroDuration();  // from admission to end; 0: not known yet
  int64_t tokens = 0;    // that the queued, the running and the new one may need together
  int64_t capacity = 0;  // tokens that fit into memory; 0: slots are the only bound
};
// Expected wait until a request is admitted behind the queued ones. Requests end as many at a time
// as run together: those that run now, or more where others have just arrived and fit into memory.
// Zero when it can start at once.
absl::Duration EstimateStart(const Load& load);
// How long a refused client should wait: between 100 ms and 30 s.
absl::Duration RetryTime(const Load& load);
// Set when a request with `left` until its deadline could not be answered in that time: refuse it
// now, with the time to come back. Only what would have to queue is refused by an estimate.
std::optional<absl::Duration> TooLate(const Load& load, absl::Duration left);

}  // namespace chord::llm_worker
