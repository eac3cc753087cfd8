#include "common/engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace chord::engine {
namespace {

using testing::ElementsAre;
using testing::FloatEq;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(Sampler, PenalizesByTheReferenceFormula) {
  std::vector<float> logits = {2, -2, 1, 0};
  SeenTokens seen(4);
  seen.Add({0, 1});
  ApplyRepetitionPenalty(absl::MakeSpan(logits), seen, 1.05f);
  EXPECT_THAT(logits, ElementsAre(FloatEq(1.9047620f), FloatEq(-2.1f), 1, 0));
}

TEST(Sampler, PenalizesAnIdOnceHoweverOftenItOccurs) {
  std::vector<float> logits = {8, 8};
  SeenTokens seen(2);
  seen.Add({1, 1, 1});
  seen.Add(1);
  EXPECT_THAT(seen.ids(), ElementsAre(1));
  ApplyRepetitionPenalty(absl::MakeSpan(logits), seen, 2);
  EXPECT_THAT(logits, ElementsAre(8, 4));
}

TEST(Sampler, IgnoresIdsOutsideTheVocabulary) {
  SeenTokens seen(2);
  seen.Add({-1, 2, 1'000'000});
  EXPECT_TRUE(seen.ids().empty());
}

TEST(Sampler, TakesTheLowestIdAmongEquals) {
  EXPECT_EQ(Argmax({1, 3, 3, 2}), 1);
  EXPECT_EQ(Argmax({-kInf, -kInf}), 0);
  EXPECT_EQ(Argmax({-1, kInf, kInf}), 1);
}

TEST(Sampler, NeverTakesNan) {
  EXPECT_EQ(Argmax({kNan, 1, kNan, 2}), 3);
  EXPECT_EQ(Argmax({kNan, -kInf}), 1);
  EXPECT_EQ(Argmax({kNan, kNan}), 0);
}

TEST(Sampler, GivesLogProbabilitiesOfLargeLogits) {
  EXPECT_NEAR(LogProbability({1000, 1000}, 0), std::log(0.5), 1e-12);
  EXPECT_NEAR(LogProbability({0, std::log(3.0f)}, 1), std::log(0.75), 1e-7);
  EXPECT_EQ(LogProbability({0, -kInf}, 1), -std::numeric_limits<double>::infinity());
}

TEST(SampleToken, AppliesThePenaltyThenTheMaskAndTakesTheLargest) {
  const std::vector<float> logits = {5, 4.9f, 6, 1};
  const std::vector<uint64_t> allowed = {0b0011};
  const std::vector<int32_t> penalized = {0};
  const SampledToken token =
      SampleToken(logits, {.allowed = allowed, .penalized = penalized, .repetition_penalty = 1.1f});
  EXPECT_EQ(token.id, 1);  // 5 / 1.1 < 4.9; id 2 is masked
  EXPECT_TRUE(token.finite);
  EXPECT_NEAR(token.log_probability, LogProbability(logits, 1), 1e-12);  // before penalty and mask
}

TEST(SampleToken, ReportsTheMassOfEachSet) {
  const std::vector<float> logits = {0, 0, 0, 0};
  const std::vector<uint64_t> three = {0b0111}, none = {0};
  const std::vector<IdSet> sets = {three, none};
  const SampledToken token = SampleToken(logits, {.mass_sets = sets});
  EXPECT_EQ(token.id, 0);
  ASSERT_THAT(token.log_mass, testing::SizeIs(2));
  EXPECT_NEAR(token.log_mass[0], std::log(0.75), 1e-12);
  EXPECT_EQ(token.log_mass[1], -std::numeric_limits<double>::infinity());
}

TEST(SampleToken, SaysWhenNothingIsAllowedOrALogitIsNotFinite) {
  const std::vector<uint64_t> none = {0};
  EXPECT_EQ(SampleToken(std::vector<float>{1, 2}, {.allowed = none}).id, -1);
  EXPECT_FALSE(SampleToken(std::vector<float>{1, kNan}, {}).finite);
  EXPECT_FALSE(SampleToken(std::vector<float>{1, kInf}, {}).finite);
}

}  // namespace
}  // namespace chord::engine
