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
  EXPECT_THAT(PlanStep({{0, 0, 10, 1, 0, false}, {1, 1, 10, 1, 0, false}}, kLimits), IsEmpty());
}

TEST(PlanStep, EveryDecoderGetsItsTokenAndPromptsTheRest) {
  EXPECT_THAT(
      PlanStep({{0, 5, 0, 1, 0, true}, {1, 6, 300, 1, 0, true}, {2, 2, 0, 1, 0, true}}, kLimits),
      ElementsAre(StepItem{0, 1}, StepItem{2, 1}, StepItem{1, 40}));
}

TEST(PlanStep, ALonePromptGetsTheWholeLimit) {
  EXPECT_THAT(PlanStep({{3, 1, 300, 1, 0, true}}, kLimits), ElementsAre(StepItem{3, 100}));
  EXPECT_THAT(PlanStep({{3, 1, 7, 1, 0, true}}, kLimits), ElementsAre(StepItem{3, 7}));
}

TEST(PlanStep, PromptsGoInOrderOfAdmissionAndShareTheLimit) {
  EXPECT_THAT(
      PlanStep({{0, 9, 50, 1, 0, true}, {1, 3, 70, 1, 0, true}, {2, 11, 5, 1, 0, true}}, kLimits),
      ElementsAre(StepItem{1, 70}, StepItem{0, 30}));
}

TEST(PlanStep, APromptWithoutItsRowsDoesNotHoldUpTheNext) {
  EXPECT_THAT(PlanStep({{0, 1, 50, 1, 0, false}, {1, 2, 20, 1, 0, true}}, kLimits),
              ElementsAre(StepItem{1, 20}));
}

TEST(PlanStep, EverybodyGetsThere) {
  std::map<int, int> left = {{0, 1000}, {1, 0}, {2, 333}, {3, 41}};
  int steps = 0;
  for (; steps < 1000; ++steps) {
    std::vector<SlotView> slots;
    for (auto [slot, tokens] : left) slots.push_back({slot, slot, tokens, 1, 0, true});
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

TEST(PlanStep, DecodersBringAllTheirTokensAndGuessesWithinTheLimit) {
  constexpr StepLimits limits = {100, 40, /*draft_tokens=*/10};
  EXPECT_THAT(
      PlanStep({{0, 1, 0, 3, 6, true}, {1, 2, 0, 1, 6, true}, {2, 3, 0, 1, 6, true}}, limits),
      ElementsAre(StepItem{0, 3, 3}, StepItem{1, 1, 3}, StepItem{2, 1, 4}));
}

TEST(PlanStep, WhatOneDoesNotGuessIsForTheOthers) {
  constexpr StepLimits limits = {100, 40, /*draft_tokens=*/10};
  EXPECT_THAT(
      PlanStep({{0, 1, 0, 1, 9, true}, {1, 2, 0, 1, 0, true}, {2, 3, 0, 1, 2, true}}, limits),
      ElementsAre(StepItem{0, 1, 8}, StepItem{1, 1, 0}, StepItem{2, 1, 2}));
  EXPECT_THAT(PlanStep({{0, 1, 0, 1, 9, true}, {1, 2, 20, 0, 9, true}}, limits),
              ElementsAre(StepItem{0, 1, 5}, StepItem{1, 20, 5}));
}

TEST(PlanStep, APromptIsFollowedByAGuessOnlyAtItsEnd) {
  EXPECT_THAT(PlanStep({{0, 1, 120, 0, 5, true}}, kLimits), ElementsAre(StepItem{0, 100, 0}));
  EXPECT_THAT(PlanStep({{0, 1, 20, 0, 5, true}}, kLimits), ElementsAre(StepItem{0, 20, 5}));
}

TEST(Estimates, StartAtOnceWhereThereIsRoom) {
  EXPECT_EQ(EstimateStart({0, 3, 4, absl::Seconds(1)}), absl::ZeroDuration());
  EXPECT_EQ(EstimateStart({0, 4, 4, absl::Seconds(1)}), absl::Milliseconds(250));
  EXPECT_EQ(EstimateStart({7, 4, 4, absl::Seconds(1)}), absl::Seconds(2));
  EXPECT_EQ(EstimateStart({7, 2, 4, absl::Seconds(1), 1000, 200}), absl::Seconds(4))
      << "memory lets only two run";
  EXPECT_EQ(EstimateStart({0, 2, 4, absl::Seconds(1), 1000, 200}), absl::ZeroDuration())
      << "two share what is kept: it may fit";
}

// Many come at once to an idle worker: all of them start at once.
TEST(Estimates, TheLineThatTheLoopHasNotSeenYetIsNoWait) {
  EXPECT_EQ(EstimateStart({9, 0, 16, absl::Seconds(1), 1000, 10000}), absl::ZeroDuration());
  EXPECT_EQ(EstimateStart({9, 5, 16, absl::Seconds(1), 1000, 10000}), absl::ZeroDuration());
  EXPECT_FALSE(TooLate({9, 0, 16, absl::Seconds(1), 1000, 10000}, absl::Milliseconds(1)));
  // 16 of the 20 run together, and one of them must leave before the 17th starts.
  EXPECT_EQ(EstimateStart({20, 0, 16, absl::Seconds(1), 2100, 10000}), absl::Seconds(5) / 16);
  // Memory for 5.
  EXPECT_EQ(EstimateStart({9, 0, 16, absl::Seconds(1), 2000, 1000}), absl::Seconds(1));
}

TEST(Estimates, TheTimeToComeBackStaysWithinItsBounds) {
  EXPECT_EQ(RetryTime({3, 2, 2, absl::Seconds(1)}), absl::Seconds(2));
  EXPECT_EQ(RetryTime({0, 1, 4, absl::Milliseconds(1)}), absl::Milliseconds(100));
  EXPECT_EQ(RetryTime({1000, 1, 1, absl::Seconds(5)}), absl::Seconds(30));
}

TEST(Estimates, OnlyWhatMustQueueAndWouldBeLateIsRefused) {
  EXPECT_FALSE(TooLate({0, 0, 4, absl::Seconds(1)}, absl::Milliseconds(1)));
  EXPECT_FALSE(TooLate({3, 4, 4, absl::ZeroDuration()}, absl::Milliseconds(1))) << "not known yet";
  EXPECT_FALSE(TooLate({3, 4, 4, absl::Seconds(1)}, absl::Seconds(2)));
  EXPECT_EQ(TooLate({3, 4, 4, absl::Seconds(1)}, absl::Milliseconds(1999)), absl::Seconds(1));
}

}  // namespace
}  // namespace chord::llm_worker
