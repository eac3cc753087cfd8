#include "common/engine/rope.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace chord::engine {
namespace {

using testing::ElementsAre;

TEST(Rope, AssemblesSectionsFromTheirAxes) {
  // Spec §4.5: head size 16, sections 2-3-3, position T=1, H=2, W=3.
  const RopeTable table = MakeRopeTable(1e6, 16, 8, model::DType::kFloat32);
  const std::vector<int> axes = RopeAxes({2, 3, 3});
  EXPECT_THAT(axes, ElementsAre(0, 0, 1, 1, 1, 2, 2, 2));
  const int32_t positions[] = {1, 2, 3};
  float cos[8], sin[8];
  AssembleMrope(table, axes, positions, 1, cos, sin);
  const float expected[] = {.5403023f, .9842302f,  .9980007f, .9999368f,
                            .9999980f, .99999988f, 1.0f,      1.0f};
  for (int k = 0; k < 8; ++k) EXPECT_NEAR(cos[k], expected[k], 6e-8) << k;
  EXPECT_NEAR(sin[0], std::sin(1.0), 6e-8);
  EXPECT_NEAR(sin[2], std::sin(2 * .0316228), 6e-8);
  EXPECT_NEAR(sin[7], std::sin(3 * 5.62341e-6), 1e-10);
}

TEST(Rope, TakesEachTokensOwnPosition) {
  const RopeTable table = MakeRopeTable(1e4, 8, 16, model::DType::kFloat32);
  const int32_t positions[] = {3, 4, 5, 3, 4, 6, 3, 5, 7};  // [3, 3]
  float cos[12], sin[12];
  AssembleMrope(table, RopeAxes({1, 1, 2}), positions, 3, cos, sin);
  EXPECT_NEAR(cos[2 * 4 + 0], std::cos(5.0), 1e-6);
  EXPECT_NEAR(cos[2 * 4 + 1], std::cos(6.0 / 10), 1e-6);
  EXPECT_NEAR(sin[2 * 4 + 3], std::sin(7.0 / 1000), 1e-6);
  EXPECT_NEAR(sin[1 * 4 + 2], std::sin(5.0 / 100), 1e-6);
}

TEST(Rope, IsExactInFloat32FarOut) {
  // bf16 or fp16 positions, or frequencies in bf16, are off by whole turns here.
  const RopeTable table = MakeRopeTable(1e6, 128, 20'000, model::DType::kFloat32);
  for (int64_t k : {0, 1, 17, 40, 63}) {
    const double angle = 19'999 * std::pow(1e6, -2.0 * k / 128);
    EXPECT_NEAR(table.cos[19'999 * 64 + k], std::cos(angle), 4e-3) << k;
    EXPECT_NEAR(table.sin[19'999 * 64 + k], std::sin(angle), 4e-3) << k;
  }
}

TEST(Rope, RoundsTheLanguageModelsTable) {
  const RopeTable exact = MakeRopeTable(1e4, 16, 50, model::DType::kFloat32);
  const RopeTable rounded = MakeRopeTable(1e4, 16, 50, model::DType::kBFloat16);
  bool differs = false;
  for (size_t i = 0; i < exact.cos.size(); ++i) {
    EXPECT_NEAR(rounded.cos[i], exact.cos[i], std::abs(exact.cos[i]) / 256);
    differs |= rounded.cos[i] != exact.cos[i];
  }
  EXPECT_TRUE(differs);
}

}  // namespace
}  // namespace chord::engine
