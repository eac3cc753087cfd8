#include "services/llm_worker/scheduler.h"

#include <algorithm>

namespace chord::llm_worker {

std::vector<StepItem> PlanStep(absl::Span<const SlotView> slots, const StepLimits& limits) {
  std::vector<StepItem> out;
  std::vector<const SlotView*> prompts;
  int guesses = limits.guessed_tokens;
  const auto guess = [&guesses](int wanted) {
    const int granted = std::min(wanted, guesses);
    guesses -= granted;
    return granted;
  };
  for (const SlotView& slot : slots) {
    if (!slot.runnable) continue;
    if (slot.prompt_left == 0) {
      out.push_back({slot.slot, slot.pending, guess(slot.guessed)});
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
    const bool last = tokens == prompt->prompt_left;
    out.push_back({prompt->slot, tokens, last ? guess(prompt->guessed) : 0});
    room -= tokens;
  }
  return out;
}

absl::Duration EstimateStart(const Load& load) {
  if (load.queued == 0 && load.running < load.slots) return absl::ZeroDuration();
  return load.mean_service * (load.queued + 1) / std::max(load.running, 1);
}

absl::Duration RetryTime(const Load& load) {
  return std::clamp(EstimateStart(load), absl::Milliseconds(100), absl::Seconds(30));
}

std::optional<absl::Duration> TooLate(const Load& load, absl::Duration left) {
  const absl::Duration start = EstimateStart(load);
  if (start == absl::ZeroDuration() || start + load.mean_service <= left) return std::nullopt;
  return RetryTime(load);
}

}  // namespace chord::llm_worker
