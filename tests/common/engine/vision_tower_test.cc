#include "common/engine/vision_tower.h"

#include <gtest/gtest.h>

#include <functional>

#include "common/base/errors.h"
#include "common/engine/cpu/widen.h"
#include "tests/common/engine/tiny_model.h"

namespace chord::engine {
namespace {

using model::DType;

constexpr int64_t kPatch = 3 * 2 * 14 * 14;
constexpr int64_t kWidth = 48;

std::vector<float> Patches(image::Grid grid, int seed) {
  return RandomFloats(grid.patches() * kPatch, seed);
}

std::vector<float> Join(std::vector<float> a, const std::vector<float>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

std::unique_ptr<VisionTower> Load(DType dtype, model::ModelConfig config = TinyConfig()) {
  VisionTower::Options options;
  options.dtype = dtype;
  auto tower = VisionTower::Load(TinyCheckpoint(config, DType::kBFloat16), config, options);
  EXPECT_TRUE(tower.ok()) << tower.status();
  return *std::move(tower);
}

std::vector<float> Encode(VisionTower& tower, const std::vector<float>& patches,
                          std::vector<image::Grid> grids) {
  auto output = tower.Encode(patches, grids, {});
  EXPECT_TRUE(output.ok()) << output.status();
  if (!output.ok()) return {};
  EXPECT_EQ(output->width, kWidth);
  EXPECT_EQ(static_cast<int64_t>(output->bytes.size()),
            output->rows * kWidth * model::SizeOf(output->dtype));
  return Widen(output->dtype, output->bytes);
}

constexpr image::Grid kSmall{4, 4}, kWide{6, 22}, kTall{18, 10};

TEST(VisionTower, EncodesAPackedBatchToTheBitAsEachAlone) {
  constexpr image::Grid kLarge{26,
                               42};  // several tiles of rows, blocks of keys, windows of all sizes
  model::ModelConfig config = TinyConfig();
  config.vision.intermediate_size = 1'100;
  for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const auto tower = Load(dtype, config);
    const std::vector<image::Grid> grids = {kWide, kTall, kSmall, kLarge, {2, 2}};
    std::vector<std::vector<float>> patches, alone;
    for (const image::Grid& grid : grids) {
      patches.push_back(Patches(grid, static_cast<int>(patches.size())));
      alone.push_back(Encode(*tower, patches.back(), {grid}));
    }
    for (const std::vector<int>& batch : std::vector<std::vector<int>>{
             {0, 1, 2}, {1, 0}, {2, 2, 2}, {3, 0, 4}, {4, 3}, {4, 3, 2, 1, 0, 3}}) {
      std::vector<float> packed, expected;
      std::vector<image::Grid> packed_grids;
      for (int i : batch) {
        packed = Join(packed, patches[i]);
        expected = Join(expected, alone[i]);
        packed_grids.push_back(grids[i]);
      }
      EXPECT_EQ(Encode(*tower, packed, packed_grids), expected);
    }
  }
}

TEST(VisionTower, AnswersInRasterOrder) {
  // Without full attention a cell depends on its own window alone. Cell (0, 4) of a 3 x 11 grid is
  // the first of the second window.
  model::ModelConfig config = TinyConfig();
  config.vision.fullatt_block_indexes = {};
  const auto tower = Load(DType::kFloat32, config);
  std::vector<float> patches = Patches(kWide, 1);
  const std::vector<float> before = Encode(*tower, patches, {kWide});
  for (int64_t i = 0; i < 4 * kPatch; ++i) patches[4 * 4 * kPatch + i] += 1;
  const std::vector<float> after = Encode(*tower, patches, {kWide});
  for (int row = 0; row < 3; ++row) {
    for (int column = 0; column < 11; ++column) {
      const auto cell = (row * 11 + column) * kWidth;
      const std::vector<float> x(before.begin() + cell, before.begin() + cell + kWidth);
      const std::vector<float> y(after.begin() + cell, after.begin() + cell + kWidth);
      EXPECT_EQ(x != y, column >= 4 && column < 8) << row << " " << column;
    }
  }
}

TEST(VisionTower, FullAttentionSeesTheWholeImageAndNoOther) {
  const auto tower = Load(DType::kFloat32);
  std::vector<float> patches = Join(Patches(kWide, 1), Patches(kSmall, 2));
  const std::vector<float> before = Encode(*tower, patches, {kWide, kSmall});
  for (int64_t i = 0; i < 4 * kPatch; ++i) patches[i] += 1;  // the first cell of the first image
  const std::vector<float> after = Encode(*tower, patches, {kWide, kSmall});
  for (int cell = 0; cell < 33 + 4; ++cell) {
    const std::vector<float> x(before.begin() + cell * kWidth,
                               before.begin() + (cell + 1) * kWidth);
    const std::vector<float> y(after.begin() + cell * kWidth, after.begin() + (cell + 1) * kWidth);
    EXPECT_EQ(x != y, cell < 33) << cell;
  }
}

TEST(VisionTower, KnowsRowsFromColumns) {
  // The same patches as a 2 x 8 and as an 8 x 2 image: only rope and windows tell.
  const auto tower = Load(DType::kFloat32);
  const auto patches = Patches({2, 8}, 1);
  EXPECT_GT(Distance(Encode(*tower, patches, {{2, 8}}), Encode(*tower, patches, {{8, 2}})), 0.01);
}

TEST(VisionTower, StaysNearFloat32InBf16) {
  const auto exact = Load(DType::kFloat32), rounded = Load(DType::kBFloat16);
  const auto patches = Patches(kTall, 1);
  const double distance =
      Distance(Encode(*rounded, patches, {kTall}), Encode(*exact, patches, {kTall}));
  EXPECT_LT(distance, 0.03);
  EXPECT_GT(distance, 1e-4);
}

TEST(VisionTower, GivesTheSameBitsEveryTime) {
  const auto tower = Load(DType::kFloat32);
  const auto patches = Patches(kTall, 1);
  const std::vector<float> first = Encode(*tower, patches, {kTall});
  Encode(*tower, Patches(kWide, 2), {kWide});
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Encode(*tower, patches, {kTall}), first);
}

TEST(VisionTower, StopsWhenCancelled) {
  const auto tower = Load(DType::kFloat32);
  CancelSource source;
  source.Cancel();
  const auto patches = Patches(kSmall, 1);
  EXPECT_EQ(tower->Encode(patches, {kSmall}, source.token()).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_FALSE(Encode(*tower, patches, {kSmall}).empty());
}

TEST(VisionTower, RefusesPatchesThatDoNotFitTheirGrids) {
  const auto tower = Load(DType::kFloat32);
  const auto patches = Patches(kSmall, 1);
  for (const std::vector<image::Grid>& grids : std::vector<std::vector<image::Grid>>{
           {}, {{4, 6}}, {{3, 4}}, {{0, 4}}, {{-4, -4}}, {{4, 4}, {2, 2}}, {{1 << 30, 1 << 30}}}) {
    EXPECT_FALSE(tower->Encode(patches, grids, {}).ok());
  }
  EXPECT_FALSE(Encode(*tower, patches, {kSmall}).empty());
}

TEST(VisionTower, RefusesCheckpointsThatDoNotFitTheirConfiguration) {
  const auto load = [](const std::function<void(model::VisionConfig*)>& spoil) {
    model::ModelConfig config = TinyConfig();
    const auto checkpoint = TinyCheckpoint(config, DType::kBFloat16);
    spoil(&config.vision);
    return ErrorReason(VisionTower::Load(checkpoint, config, {}).status());
  };
  EXPECT_EQ(load([](auto* v) { v->depth = 4; }), "CHECKPOINT_INVALID");
  EXPECT_EQ(load([](auto* v) { v->intermediate_size = 45; }), "CHECKPOINT_INVALID");
  EXPECT_EQ(load([](auto* v) { v->num_heads = 3; }), "CHECKPOINT_INVALID");
  EXPECT_EQ(load([](auto* v) { v->num_heads = 0; }), "CHECKPOINT_INVALID");
  EXPECT_EQ(load([](auto* v) { v->window_size = 14; }), "CHECKPOINT_INVALID");
  EXPECT_EQ(load([](auto* v) {
              v->spatial_merge_size = 65;  // merged cells of 135,200 values
              v->window_size = 65 * 14;
            }),
            "CHECKPOINT_INVALID");
}

}  // namespace
}  // namespace chord::engine
