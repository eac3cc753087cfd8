#include "common/engine/tower_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "common/image/preprocess.h"
#include "tests/common/engine/tiny_model.h"

namespace chord::engine {
namespace {

using testing::ElementsAre;

TEST(TowerPlan, NamesEveryPatchOfEveryImageOnce) {
  const model::VisionConfig config = TinyConfig().vision;
  const std::vector<image::Grid> grids = {{6, 10}, {2, 2}, {18, 4}};
  const TowerPlanArrays plan = PlanTower(grids, config);
  std::vector<int32_t> sorted = plan.source;
  std::sort(sorted.begin(), sorted.end());
  std::vector<int32_t> all(60 + 4 + 72);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(sorted, all);
  EXPECT_EQ(plan.side, 18);
  EXPECT_EQ(plan.images.size(), 3u);
  EXPECT_EQ(plan.positions.size(), 2 * all.size());
}

TEST(TowerPlan, FollowsTheWindowsOfTheSpecification) {
  const TowerPlanArrays plan = PlanTower({{{6, 10}}}, TinyConfig().vision);
  EXPECT_THAT(plan.target, ElementsAre(0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 4, 9, 14));
  ASSERT_EQ(plan.windows.size(), 2u);
  EXPECT_EQ(plan.windows[0].length, 48);
  EXPECT_EQ(plan.windows[1].begin, 48);
  EXPECT_EQ(plan.windows[1].length, 12);
  // Cell 4 is row 0, column 4 of the merged grid: patches (0, 8), (0, 9), (1, 8), (1, 9).
  const auto at = plan.positions.begin() + 2 * 48;
  EXPECT_THAT(std::vector<int16_t>(at, at + 8), ElementsAre(0, 8, 0, 9, 1, 8, 1, 9));
  EXPECT_EQ(plan.source[48], 16);
}

TEST(TowerPlan, FindsPatchesInPixelsWherePatchifyTakesThem) {
  model::ModelConfig config = TinyConfig();
  const std::vector<image::Grid> grids = {{4, 6}, {2, 10}};
  const TowerPlanArrays plan = PlanTower(grids, config.vision);
  std::vector<uint8_t> pixels;
  std::vector<float> patches;
  for (const image::Grid& grid : grids) {
    image::RgbImage resized{grid.w * 14, grid.h * 14, {}};
    resized.rgb.resize(3 * resized.width * resized.height);
    for (size_t i = 0; i < resized.rgb.size(); ++i) {
      resized.rgb[i] = static_cast<uint8_t>((pixels.size() + i) * 2'654'435'761u >> 24);
    }
    pixels.insert(pixels.end(), resized.rgb.begin(), resized.rgb.end());
    std::vector<float> own(resized.rgb.size() * 2);
    ASSERT_TRUE(image::Patchify(resized, config.geometry, config.normalization,
                                image::ResizeMode::kTorch, absl::MakeSpan(own))
                    .ok());
    patches.insert(patches.end(), own.begin(), own.end());
  }
  const image::SampleTable samples =
      image::NormalizedSamples(config.normalization, image::ResizeMode::kTorch);
  for (size_t row = 0; row < plan.source.size(); ++row) {
    for (int channel = 0; channel < 3; ++channel) {
      for (int y = 0; y < 14; ++y) {
        for (int x = 0; x < 14; ++x) {
          const int at = plan.pixel[row] + y * plan.stride[row] + 3 * x + channel;
          const int64_t to = plan.source[row] * 1176 + channel * 392 + y * 14 + x;
          ASSERT_EQ(samples[channel][pixels[at]], patches[to]);
          ASSERT_EQ(samples[channel][pixels[at]], patches[to + 196]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace chord::engine
