#include "services/llm_worker/scheduler.h"

#include <algorithm>

namespace chord::llm_worker {

namespace {

// Cuts what the items want to guess down to `limit` in all, alike for all: who sits in a low slot
// must not decode faster than the others. What one does not want goes to those that want more.
void ShareGuesses(int limit, std::vector<StepItem>* items) {
  std::vector<StepItem*> modest_first;
  for (StepItem& item : *items) modest_first.push_back(&item);
  std::stable_sort(modest_first.begin(), modest_first.end(),
                   [](const StepItem* a, const StepItem* b) { return a->guessed < b->guessed; });
  auto left = static_cast<int>(modest_first.size());
  for (StepItem* item : modest_first) {
    item->guessed = std::min(item->guessed, limit / left--);
    limit -= item->guessed;
  }
}

}  // namespace

std::vector<StepItem> PlanStep(absl::Span<const SlotView> slots, const StepLimits& limits) {
  std::vector<StepItem> out;
  std::vector<const SlotView*> prompts;
  for (const SlotView& slot : slots) {
    if (!slot.runnable) continue;
    if (slot.prompt_left == 0) {
      out.push_back({slot.slot, slot.pending, slot.guessed});
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
    out.push_back({prompt->slot, tokens, last ? prompt->guessed : 0});
    room -= tokens;
  }
  ShareGuesses(limits.guessed_tokens, &out);
  return out;
}

absl::Duration EstimateStart(const Load& load) {
  const int before = load.queued + load.running;
  const bool fits = load.capacity == 0 || load.tokens <= load.capacity;
  if (before < load.slots && (load.queued == 0 || fits)) return absl::ZeroDuration();
  // Those in the line may not wait for anything but the loop's next look at it.
  int64_t together = std::min(before, load.slots);
  if (!fits) together = std::min(together, load.capacity * (before + 1) / load.tokens);
  together = std::max<int64_t>({together, load.running, 1});
  return load.mean_service * std::max<int64_t>(before + 1 - together, 1) / together;
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
