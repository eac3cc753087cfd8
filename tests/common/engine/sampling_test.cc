#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "common/engine/philox.h"
#include "common/engine/sampler.h"

namespace chord::engine {
namespace {

using testing::Each;
using testing::ElementsAre;

// The known answers of the authors' Random123 library (kat_vectors, philox4x32 10).
TEST(Philox, GivesTheKnownAnswers) {
  EXPECT_THAT(Philox({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  const uint32_t ones = 0xffffffff;
  EXPECT_THAT(Philox({ones, ones, ones, ones}, {ones, ones}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(Philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(Philox, UniformNumbersLieInTheUnitIntervalAndDependOnBothArguments) {
  double sum = 0;
  for (uint64_t i = 0; i < 1000; ++i) {
    const double u = UniformAt(7, i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
  }
  EXPECT_NEAR(sum / 1000, 0.5, 0.05);
  EXPECT_NE(UniformAt(7, 0), UniformAt(7, 1));
  EXPECT_NE(UniformAt(7, 0), UniformAt(8, 0));
  EXPECT_NE(UniformAt(7, 0), UniformAt(7 + (uint64_t{1} << 32), 0));
}

std::vector<double> Shares(const std::vector<float>& logits, IdSet allowed, Randomness randomness,
                           int draws = 20'000) {
  std::vector<double> out(logits.size(), 0);
  for (int i = 0; i < draws; ++i) {
    randomness.index = i;
    out[Draw(logits, allowed, randomness)] += 1.0 / draws;
  }
  return out;
}

const std::vector<float> kLogits = {std::log(0.1f), std::log(0.5f), std::log(0.15f),
                                    std::log(0.25f)};

TEST(Draw, FollowsTheProbabilities) {
  const auto shares = Shares(kLogits, {}, {.temperature = 1, .seed = 3});
  const std::vector<double> expected = {0.1, 0.5, 0.15, 0.25};
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(shares[i], expected[i], 0.015) << i;
}

TEST(Draw, TemperatureSharpensAndFlattens) {
  // Squared and normalised: 0.01, 0.25, 0.0225, 0.0625 over 0.345.
  const auto cold = Shares(kLogits, {}, {.temperature = 0.5f, .seed = 3});
  EXPECT_NEAR(cold[1], 0.25 / 0.345, 0.015);
  const auto hot = Shares(kLogits, {}, {.temperature = 100, .seed = 3});
  EXPECT_THAT(hot, Each(testing::DoubleNear(0.25, 0.02)));
}

TEST(Draw, TopPKeepsAsFewAsHaveTheMass) {
  const auto shares = Shares(kLogits, {}, {.temperature = 1, .top_p = 0.7f, .seed = 3});
  EXPECT_NEAR(shares[1], 0.5 / 0.75, 0.015);
  EXPECT_NEAR(shares[3], 0.25 / 0.75, 0.015);
  EXPECT_EQ(shares[0] + shares[2], 0);
  const auto one = Shares(kLogits, {}, {.temperature = 1, .top_p = 1e-6f, .seed = 3}, 200);
  EXPECT_DOUBLE_EQ(std::round(one[1] * 200), 200);
}

TEST(Draw, TopPTakesTheLowestIdFirstAmongEquals) {
  const std::vector<float> equal(5, 1.0f);
  const auto shares = Shares(equal, {}, {.temperature = 1, .top_p = 0.39f, .seed = 1}, 500);
  EXPECT_GT(shares[0], 0);
  EXPECT_GT(shares[1], 0);
  EXPECT_EQ(shares[2] + shares[3] + shares[4], 0);
}

TEST(Draw, NeverLeavesTheAllowedIds) {
  const std::vector<uint64_t> allowed = {0b1001};
  const auto shares = Shares(kLogits, allowed, {.temperature = 1, .seed = 9});
  EXPECT_EQ(shares[1] + shares[2], 0);
  EXPECT_NEAR(shares[3], 0.25 / 0.35, 0.015);
  const std::vector<uint64_t> none = {0, 0b11};
  EXPECT_EQ(Draw(kLogits, none, {.temperature = 1}), -1);
}

TEST(Draw, RepeatsWithTheSeedAndDiffersWithoutIt) {
  const std::vector<float> flat(64, 0.0f);
  const auto answer = [&](uint64_t seed) {
    std::vector<int32_t> ids;
    for (uint64_t i = 0; i < 32; ++i) {
      ids.push_back(Draw(flat, {}, {.temperature = 1, .seed = seed, .index = i}));
    }
    return ids;
  };
  EXPECT_EQ(answer(1), answer(1));
  EXPECT_NE(answer(1), answer(2));
}

TEST(TopTokens, AreTheLargestInOrderWithTheirProbabilities) {
  const auto top = TopTokens(kLogits, 3);
  ASSERT_EQ(top.size(), 3u);
  EXPECT_EQ(top[0].id, 1);
  EXPECT_EQ(top[1].id, 3);
  EXPECT_EQ(top[2].id, 2);
  EXPECT_NEAR(std::exp(top[0].log_probability), 0.5, 1e-6);
  EXPECT_NEAR(std::exp(top[2].log_probability), 0.15, 1e-6);
  EXPECT_EQ(TopTokens({1, 1, 1}, 2)[0].id, 0);
  EXPECT_EQ(TopTokens({1, 2}, 20).size(), 2u);
  EXPECT_TRUE(TopTokens({1, 2}, 0).empty());
}

TEST(SampleToken, DrawsAfterThePenaltyAndReportsBeforeIt) {
  const std::vector<float> logits = {5, 5};
  const std::vector<int32_t> seen = {0};
  SampleSpec spec;
  spec.penalized = seen;
  spec.repetition_penalty = 100;
  spec.randomness = {.temperature = 0.1f, .seed = 1};
  spec.top = 2;
  const SampledToken token = SampleToken(logits, spec);
  EXPECT_EQ(token.id, 1);
  EXPECT_NEAR(token.log_probability, std::log(0.5), 1e-12);
  ASSERT_EQ(token.top.size(), 2u);
  EXPECT_NEAR(token.top[0].log_probability, std::log(0.5), 1e-12);
}

TEST(SampleToken, IsTheArgMaxWithoutTemperature) {
  SampleSpec spec;
  spec.randomness.seed = 5;
  EXPECT_FALSE(NeedsHost(spec));
  EXPECT_EQ(SampleToken(kLogits, spec).id, 1);
  spec.top = 1;
  EXPECT_TRUE(NeedsHost(spec));
}

}  // namespace
}  // namespace chord::engine
