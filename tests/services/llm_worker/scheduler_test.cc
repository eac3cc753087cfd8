#include "services/llm_worker/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace chord::llm_worker {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr StepLimits kLimits = {/*prefill_tokens=*/100, /*prefill_tokens_beside_decode=*/40};

TEST(PlanStep, TakesNothingWhenNothingCanRun) {
  EXPECT_THAT(PlanStep({}, kLimits), IsEmpty());
  EXPECT_THAT(PlanStep({{0, 0, 10, false}, {1, 1, 10, false}}, kLimits), IsEmpty());
}

TEST(PlanStep, EveryDecoderGetsItsTokenAndPromptsTheRest) {
  EXPECT_THAT(PlanStep({{0, 5, 0, true}, {1, 6, 300, true}, {2, 2, 0, true}}, kLimits),
              ElementsAre(StepItem{0, 1}, StepItem{2, 1}, StepItem{1, 40}));
}

TEST(PlanStep, ALonePromptGetsTheWholeLimit) {
  EXPECT_THAT(PlanStep({{3, 1, 300, true}}, kLimits), ElementsAre(StepItem{3, 100}));
  EXPECT_THAT(PlanStep({{3, 1, 7, true}}, kLimits), ElementsAre(StepItem{3, 7}));
}

TEST(PlanStep, PromptsGoInOrderOfAdmissionAndShareTheLimit) {
  EXPECT_THAT(PlanStep({{0, 9, 50, true}, {1, 3, 70, true}, {2, 11, 5, true}}, kLimits),
              ElementsAre(StepItem{1, 70}, StepItem{0, 30}));
}

TEST(PlanStep, APromptWithoutItsRowsDoesNotHoldUpTheNext) {
  EXPECT_THAT(PlanStep({{0, 1, 50, false}, {1, 2, 20, true}}, kLimits),
              ElementsAre(StepItem{1, 20}));
}

TEST(PlanStep, EverybodyGetsThere) {
  std::map<int, int> left = {{0, 1000}, {1, 0}, {2, 333}, {3, 41}};
  int steps = 0;
  for (; steps < 1000; ++steps) {
    std::vector<SlotView> slots;
    for (auto [slot, tokens] : left) slots.push_back({slot, slot, tokens, true});
    int prompt_tokens = 0;
    for (const StepItem& item : PlanStep(slots, kLimits)) {
      if (left[item.slot] == 0) continue;
      left[item.slot] -= item.tokens;
      prompt_tokens += item.tokens;
    }
    EXPECT_LE(prompt_tokens, kLimits.prefill_tokens_beside_decode);
    if (prompt_tokens == 0) break;
  }
  for (auto [slot, tokens] : left) EXPECT_EQ(tokens, 0) << slot;
  EXPECT_EQ(steps, (1000 + 333 + 41 + 39) / 40);
}

TEST(EstimateWait, GrowsWithTheLineAndStaysWithinItsBounds) {
  EXPECT_EQ(EstimateWait(3, 2, absl::Seconds(1)), absl::Seconds(2));
  EXPECT_EQ(EstimateWait(0, 4, absl::Milliseconds(1)), absl::Milliseconds(100));
  EXPECT_EQ(EstimateWait(1000, 1, absl::Seconds(5)), absl::Seconds(30));
}

}  // namespace
}  // namespace chord::llm_worker
