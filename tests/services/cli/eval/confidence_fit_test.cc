#include "services/cli/eval/confidence_fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"

namespace chord::cli {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// std::uniform_real_distribution differs between libraries; this does not.
double Uniform(std::mt19937& random) { return random() / 4294967296.0; }

TEST(PoolAdjacentViolatorsTest, GivesTheNearestRisingSequence) {
  EXPECT_THAT(PoolAdjacentViolators({}, {}), IsEmpty());
  EXPECT_THAT(PoolAdjacentViolators({0.5}, {2}), ElementsAre(0.5));
  EXPECT_THAT(PoolAdjacentViolators({1, 2, 3}, {1, 1, 1}), ElementsAre(1, 2, 3));
  EXPECT_THAT(PoolAdjacentViolators({3, 2, 1}, {1, 1, 1}), ElementsAre(2, 2, 2));
  EXPECT_THAT(PoolAdjacentViolators({1, 3, 2, 4}, {1, 1, 1, 1}), ElementsAre(1, 2.5, 2.5, 4));
  EXPECT_THAT(PoolAdjacentViolators({1, 3, 2, 4}, {1, 1, 3, 1}), ElementsAre(1, 2.25, 2.25, 4));
  // The last drags all before it down.
  EXPECT_THAT(PoolAdjacentViolators({1, 2, 3, -6}, {1, 1, 1, 1}), ElementsAre(0, 0, 0, 0));
}

TEST(FitMapTest, FindsAProbabilityThatIsThere) {
  std::mt19937 random(7);
  std::vector<FitSample> samples;
  for (int i = 0; i < 4000; ++i) {
    const double x = 6 * Uniform(random) - 3, noise = Uniform(random);
    samples.push_back({{x, noise, 1.0}, Uniform(random) < 1 / (1 + std::exp(-2 * x))});
  }
  const grounding::MonotoneMap map = FitMap(samples, 3);
  EXPECT_THAT(map.weights[0], DoubleNear(2, 0.2));
  EXPECT_THAT(map.weights[1], DoubleNear(0, 0.4));
  EXPECT_EQ(map.weights[2], 0);  // a constant says nothing
  for (const double x : {-1.0, -0.5, 0.0, 0.5, 1.0}) {
    EXPECT_THAT(grounding::Probability(map, {x, 0.5, 1.0}),
                DoubleNear(1 / (1 + std::exp(-2 * x)), 0.06));
  }
}

TEST(FitMapTest, RisesWithItsScoreAndIsValidWhateverTheSamples) {
  std::mt19937 random(3);
  for (const int count : {0, 1, 2, 39, 40, 81, 500}) {
    for (const int outcome : {0, 1, 2}) {  // all wrong, all right, mixed
      for (const double scale : {0.0, 1e-9, 1.0, 30.0}) {
        std::vector<FitSample> samples;
        for (int i = 0; i < count; ++i) {
          samples.push_back(
              {{scale * Uniform(random), scale}, outcome == 2 ? i % 2 == 0 : outcome == 1});
        }
        grounding::ConfidenceMap whole;
        whole.model_fingerprint = whole.fitted_on.sha256 = std::string(64, '0');
        whole.box = FitMap(std::vector<FitSample>{}, grounding::kBoxFeatures);
        whole.answer = FitMap(std::vector<FitSample>{}, grounding::kAnswerFeatures);
        whole.absent = FitMap(samples, grounding::kAbsentFeatures);
        const auto parsed = grounding::ParseConfidenceMap(grounding::ToJson(whole));
        ASSERT_TRUE(parsed.ok()) << parsed.status() << count << " " << outcome << " " << scale;
        if (count >= 40 && outcome < 2) {
          EXPECT_THAT(grounding::Probability(whole.absent, {scale / 2, scale}),
                      DoubleNear(outcome, 0.05));
        }
      }
    }
  }
}

TEST(FitMapTest, IsTheSameForTheSameSamples) {
  std::mt19937 random(5);
  std::vector<FitSample> samples;
  for (int i = 0; i < 300; ++i) samples.push_back({{Uniform(random)}, Uniform(random) < 0.4});
  const auto a = FitMap(samples, 1), b = FitMap(samples, 1);
  EXPECT_EQ(a.bias, b.bias);
  EXPECT_EQ(a.weights, b.weights);
  ASSERT_EQ(a.knots.size(), b.knots.size());
}

// Answers whose raw scores are far too sure, and whose evidence tells how often they are right.
std::vector<FitAnswer> Overconfident(int count) {
  std::mt19937 random(11);
  std::vector<FitAnswer> out;
  for (int i = 0; i < count; ++i) {
    FitAnswer answer;
    answer.image = absl::StrCat("image ", i / 2);
    answer.raw_confidence = 0.95;
    const double x = Uniform(random);
    if (i % 4 == 0) {
      answer.absent = {x, 0};
      answer.right = Uniform(random) < x;
    } else {
      answer.boxes = {{x, 0, 0, 0, 0}};
      answer.raw_boxes = {0.95};
      answer.boxes_right = {Uniform(random) < x};
      answer.right = answer.boxes_right[0];
    }
    out.push_back(std::move(answer));
  }
  return out;
}

TEST(CrossValidateTest, ShowsWhatFittingGains) {
  const auto answers = Overconfident(2000);
  const FitQuality quality = CrossValidate(answers);
  EXPECT_GT(quality.ece_raw, 0.35);
  EXPECT_LT(quality.ece, 0.05);
  EXPECT_LT(quality.ece_answers, 0.06);
  const auto map = FitConfidence(answers);
  EXPECT_EQ(map.fitted_on.prompts, 2000);
  EXPECT_EQ(map.fitted_on.boxes, 1500);
  EXPECT_EQ(map.fitted_on.absences, 500);
}

TEST(FitConfidenceTest, LeavesOutWhatStatesNothing) {
  FitAnswer words;  // neither a box nor an empty list
  words.absent = {-30, -1};
  words.right = true;
  const auto map = FitConfidence({words});
  EXPECT_EQ(map.fitted_on.absences, 0);
  EXPECT_EQ(WholeClaim(words, &map).confidence, 0);
}

}  // namespace
}  // namespace chord::cli
