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

}  // namespace
}  // namespace chord::engine
