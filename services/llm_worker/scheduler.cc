#include "services/llm_worker/scheduler.h"

#include <algorithm>

namespace chord::llm_worker {

namespace {

// Reduces the draft tokens to `limit` in all, evenly: a low slot must not decode faster than the
// others. What one item does not need goes to those that want more.
void ShareDraftTokens(int limit, std::vector<StepItem>* items) {
  std::vector<StepItem*> fewest_first;
  for (StepItem& item : *items) fewest_first.push_back(&item);
  std::stable_sort(
      fewest_first.begin(), fewest_first.end(),
      [](const StepItem* a, const StepItem* b) { return a->draft_tokens < b->draft_tokens; });
  auto left = static_cast<int>(fewest_first.size());
  for (StepItem* item : fewest_first) {
    item->draft_tokens = std::min(item->draft_tokens, limit / left--);
    limit -= item->draft_tokens;
  }
}

}  // namespace

std::vector<StepItem> PlanStep(absl::Span<const SlotView> slots, const StepLimits& limits) {
  std::vector<StepItem> out;
  std::vector<const SlotView*> prompts;
  for (const SlotView& slot : slots) {
    if (!slot.runnable) continue;
    if (slot.prompt_left == 0) {
      out.push_back({slot.slot, slot.pending, slot.draft_tokens});
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
    out.push_back({prompt->slot, tokens, last ? prompt->draft_tokens : 0});
    room -= tokens;
  }
  ShareDraftTokens(limits.draft_tokens, &out);
  return out;
}

absl::Duration EstimateStart(const Load& load) {
  const int before = load.queued + load.running;
  const bool fits = load.capacity == 0 || load.tokens <= load.capacity;
  if (before < load.slots && (load.queued == 0 || fits)) return absl::ZeroDuration();
  // Queued requests may wait for nothing but the next round of the loop.
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
