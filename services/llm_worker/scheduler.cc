#include "services/llm_worker/scheduler.h"

#include <algorithm>

namespace chord::llm_worker {

std::vector<StepItem> PlanStep(absl::Span<const SlotView> slots, const StepLimits& limits) {
  std::vector<StepItem> out;
  std::vector<const SlotView*> prompts;
  for (const SlotView& slot : slots) {
    if (!slot.runnable) continue;
    if (slot.prompt_left == 0) {
      out.push_back({slot.slot, 1});
    } else {
      prompts.push_back(&slot);
    }
  }
  std::sort(prompts.begin(), prompts.end(),
            [](const SlotView* a, const SlotView* b) { return a->order < b->order; });
  int room = out.empty() ? limits.prefill_tokens : limits.prefill_tokens_beside_decode;
  for (const SlotView* prompt : prompts) {
    if (room <= 0) break;
    const int tokens = std::min(prompt->prompt_left, room);
    out.push_back({prompt->slot, tokens});
    room -= tokens;
  }
  return out;
}

absl::Duration EstimateWait(int queued, int slots, absl::Duration mean_service) {
  const absl::Duration wait = mean_service * (queued + 1) / std::max(slots, 1);
  return std::clamp(wait, absl::Milliseconds(100), absl::Seconds(30));
}

}  // namespace chord::llm_worker
