#include "services/llm_worker/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace chord::llm_worker {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr StepLimits kLimits = {.prefill_tokens = 100, .prefill_tokens_beside_decode = 40};

TEST(PlanStep, TakesNothingWhenNothingCanRun) {
  EXPECT_THAT(PlanStep({}, kLimits), IsEmpty());
  EXPECT_THAT(PlanStep({{.slot = 0, .order = 0, .prompt_left = 10, .runnable = false},
                        {.slot = 1, .order = 1, .prompt_left = 10, .runnable = false}},
                       kLimits),
              IsEmpty());
}

TEST(PlanStep, EveryDecoderGetsItsTokenAndPromptsGetTheRest) {
  EXPECT_THAT(PlanStep({{.slot = 0, .order = 5, .runnable = true},
                        {.slot = 1, .order = 6, .prompt_left = 300, .runnable = true},
                        {.slot = 2, .order = 2, .runnable = true}},
                       kLimits),
              ElementsAre(StepItem{.slot = 0, .tokens = 1}, StepItem{.slot = 2, .tokens = 1},
                          StepItem{.slot = 1, .tokens = 40}));
}

TEST(PlanStep, ALonePromptGetsTheWholeLimit) {
  EXPECT_THAT(PlanStep({{.slot = 3, .order = 1, .prompt_left = 300, .runnable = true}}, kLimits),
              ElementsAre(StepItem{.slot = 3, .tokens = 100}));
  EXPECT_THAT(PlanStep({{.slot = 3, .order = 1, .prompt_left = 7, .runnable = true}}, kLimits),
              ElementsAre(StepItem{.slot = 3, .tokens = 7}));
}

TEST(PlanStep, PromptsGoInOrderOfAdmissionAndShareTheLimit) {
  EXPECT_THAT(PlanStep({{.slot = 0, .order = 9, .prompt_left = 50, .runnable = true},
                        {.slot = 1, .order = 3, .prompt_left = 70, .runnable = true},
                        {.slot = 2, .order = 11, .prompt_left = 5, .runnable = true}},
                       kLimits),
              ElementsAre(StepItem{.slot = 1, .tokens = 70}, StepItem{.slot = 0, .tokens = 30}));
}

TEST(PlanStep, APromptWithoutItsEmbeddingsDoesNotBlockTheNext) {
  EXPECT_THAT(PlanStep({{.slot = 0, .order = 1, .prompt_left = 50, .runnable = false},
                        {.slot = 1, .order = 2, .prompt_left = 20, .runnable = true}},
                       kLimits),
              ElementsAre(StepItem{.slot = 1, .tokens = 20}));
}

TEST(PlanStep, EveryPromptIsPrefilledInTheEnd) {
  std::map<int, int> left = {{0, 1000}, {1, 0}, {2, 333}, {3, 41}};
  int steps = 0;
  for (; steps < 1000; ++steps) {
    std::vector<SlotView> slots;
    for (auto [slot, tokens] : left)
      slots.push_back({.slot = slot, .order = slot, .prompt_left = tokens, .runnable = true});
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

TEST(PlanStep, DecodersGetAllTheirTokensAndDraftTokensWithinTheLimit) {
  constexpr StepLimits limits = {
      .prefill_tokens = 100, .prefill_tokens_beside_decode = 40, .draft_tokens = 10};
  EXPECT_THAT(PlanStep({{.slot = 0, .order = 1, .pending = 3, .draft_tokens = 6, .runnable = true},
                        {.slot = 1, .order = 2, .draft_tokens = 6, .runnable = true},
                        {.slot = 2, .order = 3, .draft_tokens = 6, .runnable = true}},
                       limits),
              ElementsAre(StepItem{.slot = 0, .tokens = 3, .draft_tokens = 3},
                          StepItem{.slot = 1, .tokens = 1, .draft_tokens = 3},
                          StepItem{.slot = 2, .tokens = 1, .draft_tokens = 4}));
}

TEST(PlanStep, UnusedDraftTokensGoToTheOtherSequences) {
  constexpr StepLimits limits = {
      .prefill_tokens = 100, .prefill_tokens_beside_decode = 40, .draft_tokens = 10};
  EXPECT_THAT(PlanStep({{.slot = 0, .order = 1, .draft_tokens = 9, .runnable = true},
                        {.slot = 1, .order = 2, .runnable = true},
                        {.slot = 2, .order = 3, .draft_tokens = 2, .runnable = true}},
                       limits),
              ElementsAre(StepItem{.slot = 0, .tokens = 1, .draft_tokens = 8},
                          StepItem{.slot = 1, .tokens = 1, .draft_tokens = 0},
                          StepItem{.slot = 2, .tokens = 1, .draft_tokens = 2}));
  EXPECT_THAT(PlanStep({{.slot = 0, .order = 1, .draft_tokens = 9, .runnable = true},
                        {.slot = 1,
                         .order = 2,
                         .prompt_left = 20,
                         .pending = 0,
                         .draft_tokens = 9,
                         .runnable = true}},
                       limits),
              ElementsAre(StepItem{.slot = 0, .tokens = 1, .draft_tokens = 5},
                          StepItem{.slot = 1, .tokens = 20, .draft_tokens = 5}));
}

TEST(PlanStep, APromptIsFollowedByDraftTokensOnlyAtItsEnd) {
  EXPECT_THAT(PlanStep({{.slot = 0,
                         .order = 1,
                         .prompt_left = 120,
                         .pending = 0,
                         .draft_tokens = 5,
                         .runnable = true}},
                       kLimits),
              ElementsAre(StepItem{.slot = 0, .tokens = 100, .draft_tokens = 0}));
  EXPECT_THAT(PlanStep({{.slot = 0,
                         .order = 1,
                         .prompt_left = 20,
                         .pending = 0,
                         .draft_tokens = 5,
                         .runnable = true}},
                       kLimits),
              ElementsAre(StepItem{.slot = 0, .tokens = 20, .draft_tokens = 5}));
}

TEST(Estimates, StartAtOnceWhereThereIsRoom) {
  EXPECT_EQ(
      EstimateStart({.queued = 0, .running = 3, .slots = 4, .mean_service = absl::Seconds(1)}),
      absl::ZeroDuration());
  EXPECT_EQ(
      EstimateStart({.queued = 0, .running = 4, .slots = 4, .mean_service = absl::Seconds(1)}),
      absl::Milliseconds(250));
  EXPECT_EQ(
      EstimateStart({.queued = 7, .running = 4, .slots = 4, .mean_service = absl::Seconds(1)}),
      absl::Seconds(2));
  EXPECT_EQ(EstimateStart({.queued = 7,
                           .running = 2,
                           .slots = 4,
                           .mean_service = absl::Seconds(1),
                           .tokens = 1000,
                           .capacity = 200}),
            absl::Seconds(4))
      << "memory lets only two run";
  EXPECT_EQ(EstimateStart({.queued = 0,
                           .running = 2,
                           .slots = 4,
                           .mean_service = absl::Seconds(1),
                           .tokens = 1000,
                           .capacity = 200}),
            absl::ZeroDuration())
      << "two share a cached prefix: it may fit";
}

// Many come at once to an idle worker: all of them start at once.
TEST(Estimates, RequestsThatTheLoopHasNotSeenYetAreNoWait) {
  EXPECT_EQ(EstimateStart({.queued = 9,
                           .running = 0,
                           .slots = 16,
                           .mean_service = absl::Seconds(1),
                           .tokens = 1000,
                           .capacity = 10000}),
            absl::ZeroDuration());
  EXPECT_EQ(EstimateStart({.queued = 9,
                           .running = 5,
                           .slots = 16,
                           .mean_service = absl::Seconds(1),
                           .tokens = 1000,
                           .capacity = 10000}),
            absl::ZeroDuration());
  EXPECT_FALSE(TooLate({.queued = 9,
                        .running = 0,
                        .slots = 16,
                        .mean_service = absl::Seconds(1),
                        .tokens = 1000,
                        .capacity = 10000},
                       absl::Milliseconds(1)));
  // 16 of the 20 run together, and one of them must leave before the 17th starts.
  EXPECT_EQ(EstimateStart({.queued = 20,
                           .running = 0,
                           .slots = 16,
                           .mean_service = absl::Seconds(1),
                           .tokens = 2100,
                           .capacity = 10000}),
            absl::Seconds(5) / 16);
  // Memory for 5.
  EXPECT_EQ(EstimateStart({.queued = 9,
                           .running = 0,
                           .slots = 16,
                           .mean_service = absl::Seconds(1),
                           .tokens = 2000,
                           .capacity = 1000}),
            absl::Seconds(1));
}

TEST(Estimates, TheTimeToComeBackStaysWithinItsBounds) {
  EXPECT_EQ(RetryTime({.queued = 3, .running = 2, .slots = 2, .mean_service = absl::Seconds(1)}),
            absl::Seconds(2));
  EXPECT_EQ(
      RetryTime({.queued = 0, .running = 1, .slots = 4, .mean_service = absl::Milliseconds(1)}),
      absl::Milliseconds(100));
  EXPECT_EQ(RetryTime({.queued = 1000, .running = 1, .slots = 1, .mean_service = absl::Seconds(5)}),
            absl::Seconds(30));
}

TEST(Estimates, OnlyWhatMustQueueAndWouldBeLateIsRefused) {
  EXPECT_FALSE(TooLate({.queued = 0, .running = 0, .slots = 4, .mean_service = absl::Seconds(1)},
                       absl::Milliseconds(1)));
  EXPECT_FALSE(
      TooLate({.queued = 3, .running = 4, .slots = 4, .mean_service = absl::ZeroDuration()},
              absl::Milliseconds(1)))
      << "not known yet";
  EXPECT_FALSE(TooLate({.queued = 3, .running = 4, .slots = 4, .mean_service = absl::Seconds(1)},
                       absl::Seconds(2)));
  EXPECT_EQ(TooLate({.queued = 3, .running = 4, .slots = 4, .mean_service = absl::Seconds(1)},
                    absl::Milliseconds(1999)),
            absl::Seconds(1));
}

}  // namespace
}  // namespace chord::llm_worker
