// What runs in the next step, and how long a refused client should wait. Integers only: no tensors,
// no threads, no clock.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"

namespace chord::llm_worker {

struct StepLimits {
  // Prompt tokens of one step: bounds how long a cancel waits for the step to end.
  int prefill_tokens = 512;
  // The same while somebody decodes: a long prompt must not hold up their next token for long.
  int prefill_tokens_beside_decode = 512;
};

struct SlotView {
  int slot = 0;
  int64_t order = 0;      // admission number: lower came first
  int prompt_left = 0;    // prompt tokens that have no KV yet; 0: decoding
  bool runnable = false;  // everything the next chunk needs is here
};

struct StepItem {
  int slot = 0;
  int tokens = 0;  // 1 when decoding, else a chunk of the prompt
  bool operator==(const StepItem&) const = default;
};

// One token of every decoding sequence, then prompt chunks, oldest first, within the limits. Every
// runnable sequence advances after finitely many steps: decoders in each, prompts in order.
std::vector<StepItem> PlanStep(absl::Span<const SlotView> slots, const StepLimits& limits);

// Expected wait until one of `slots` is free for the next request behind `queued` others, given
// the mean service time; between 100 ms and 30 s.
absl::Duration EstimateWait(int queued, int slots, absl::Duration mean_service);

}  // namespace chord::llm_worker
