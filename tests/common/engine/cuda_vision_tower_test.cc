// The tower on Chord's own kernels against float32 on the CPU and against libtorch on the device.
#include "common/engine/cuda_vision_tower.h"

#include <gtest/gtest.h>

#include "common/base/errors.h"
#include "common/engine/cpu/widen.h"
#include "common/engine/cuda_plugin.h"
#include "common/image/preprocess.h"
#include "tests/common/engine/tiny_model.h"

namespace chord::engine {
namespace {

using model::DType;

constexpr int64_t kPatch = 3 * 2 * 14 * 14;

struct Shape {
  int heads = 2;
  int head_dim = 80;
  int inner = 342;
  int out = 64;
};

model::ModelConfig ConfigOf(const Shape& shape) {
  model::ModelConfig config = TinyConfig();
  config.vision.hidden_size = shape.heads * shape.head_dim;
  config.vision.num_heads = shape.heads;
  config.vision.intermediate_size = shape.inner;
  config.vision.out_hidden_size = shape.out;
  config.vision.depth = 4;
  config.vision.fullatt_block_indexes = {1, 3};
  return config;
}

std::unique_ptr<VisionTower> Load(const model::ModelConfig& config, const Device& device,
                                  DType dtype, bool portable = false) {
  VisionTower::Options options;
  options.device = device;
  options.dtype = dtype;
  options.portable_kernels = portable;
  auto tower = VisionTower::Load(TinyCheckpoint(config, DType::kBFloat16), config, options);
  EXPECT_TRUE(tower.ok()) << tower.status();
  return tower.ok() ? *std::move(tower) : nullptr;
}

std::vector<float> Floats(const absl::StatusOr<VisionTower::Output>& output) {
  EXPECT_TRUE(output.ok()) << output.status();
  return output.ok() ? Widen(output->dtype, output->bytes) : std::vector<float>();
}

std::vector<float> Patches(const std::vector<image::Grid>& grids, int seed) {
  int64_t count = 0;
  for (const image::Grid& grid : grids) count += grid.patches();
  return RandomFloats(count * kPatch, seed);
}

class CudaVisionTower : public testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<Device> device = ParseDevice("cuda");
    if (!device.ok()) GTEST_SKIP() << "no CUDA device: " << device.status().message();
    const auto plugin = LoadCudaPlugin();
    ASSERT_TRUE(plugin.ok()) << plugin.status();
    cuda::DeviceInfo info;
    ASSERT_TRUE((*plugin)->device_info(device->index, &info).ok());
    if (info.compute_major < 8) GTEST_SKIP() << info.name << " is older than Ampere";
    own_product_ = info.compute_major == 9;
    device_ = *device;
  }
  Device device_;
  bool own_product_ = false;
};

const std::vector<image::Grid> kSizes = {{2, 2}, {6, 22}, {18, 10}, {26, 42}, {2, 40}, {8, 8}};

TEST_F(CudaVisionTower, IsAsNearToFloat32AsLibtorch) {
  for (const Shape& shape : {Shape{2, 80, 342, 64}, Shape{3, 64, 100, 72}, Shape{1, 128, 96, 48},
                             Shape{4, 48, 576, 256}}) {
    const model::ModelConfig config = ConfigOf(shape);
    const auto exact = Load(config, Device{}, DType::kFloat32);
    for (DType dtype : {DType::kBFloat16, DType::kFloat16}) {
      SCOPED_TRACE(testing::Message() << shape.head_dim << " " << model::DTypeName(dtype));
      const auto own = Load(config, device_, dtype), portable = Load(config, device_, dtype, true);
      ASSERT_EQ(own->backend(), "cuda kernels");
      const std::vector<float> patches = Patches(kSizes, 1);
      const std::vector<float> expected = Floats(exact->Encode(patches, kSizes, {}));
      // libtorch composes the same roundings: on the CPU for bf16, which it has everywhere.
      const double limit = dtype == DType::kBFloat16
                               ? 1.2 * Distance(Floats(Load(config, Device{}, DType::kBFloat16)
                                                           ->Encode(patches, kSizes, {})),
                                                expected)
                               : 0.004;
      EXPECT_GT(limit, 1e-4);
      EXPECT_LE(Distance(Floats(own->Encode(patches, kSizes, {})), expected), limit);
      EXPECT_LE(Distance(Floats(portable->Encode(patches, kSizes, {})), expected), limit);
    }
  }
}

TEST_F(CudaVisionTower, MakesPatchesFromPixelsToTheBit) {
  const model::ModelConfig config = ConfigOf({});
  const auto tower = Load(config, device_, DType::kBFloat16);
  std::vector<uint8_t> pixels;
  std::vector<float> patches;
  for (const image::Grid& grid : kSizes) {
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
  EXPECT_EQ(Floats(tower->EncodePixels(pixels, kSizes, {})),
            Floats(tower->Encode(patches, kSizes, {})));
  pixels.pop_back();
  EXPECT_FALSE(tower->EncodePixels(pixels, kSizes, {}).ok());
}

TEST_F(CudaVisionTower, EncodesAPackedBatchToTheBitAsEachAlone) {
  if (!own_product_) GTEST_SKIP() << "cuBLASLt promises no such thing";
  const auto tower = Load(ConfigOf({}), device_, DType::kBFloat16);
  std::vector<float> packed, expected;
  for (size_t i = 0; i < kSizes.size(); ++i) {
    const std::vector<float> patches = Patches({kSizes[i]}, static_cast<int>(i));
    const std::vector<float> alone = Floats(tower->Encode(patches, {kSizes[i]}, {}));
    packed.insert(packed.end(), patches.begin(), patches.end());
    expected.insert(expected.end(), alone.begin(), alone.end());
  }
  EXPECT_EQ(Floats(tower->Encode(packed, kSizes, {})), expected);
}

TEST_F(CudaVisionTower, GivesTheSameBitsEveryTime) {
  const auto tower = Load(ConfigOf({}), device_, DType::kBFloat16);
  const std::vector<image::Grid> large = {{54, 74}};
  const std::vector<float> patches = Patches(large, 1);
  const std::vector<float> first = Floats(tower->Encode(patches, large, {}));
  for (int i = 0; i < 5; ++i) {
    Floats(tower->Encode(Patches(kSizes, i), kSizes, {}));
    ASSERT_EQ(Floats(tower->Encode(patches, large, {})), first);
  }
}

TEST_F(CudaVisionTower, TakesWindowsLongerThanATile) {
  model::ModelConfig config = ConfigOf({});
  config.vision.window_size = 14 * 2 * 7;  // 196 patches
  const std::vector<float> patches = Patches(kSizes, 1);
  const auto exact = Load(config, Device{}, DType::kFloat32);
  const auto own = Load(config, device_, DType::kFloat16);
  EXPECT_LE(Distance(Floats(own->Encode(patches, kSizes, {})),
                     Floats(exact->Encode(patches, kSizes, {}))),
            0.004);
}

TEST_F(CudaVisionTower, LeavesOddHeadSizesToLibtorch) {
  const auto tower = Load(TinyConfig(), device_, DType::kBFloat16);
  EXPECT_EQ(tower->backend(), "libtorch");
}

TEST_F(CudaVisionTower, StopsWhenCancelledAndRefusesWrongSizes) {
  const auto tower = Load(ConfigOf({}), device_, DType::kBFloat16);
  const std::vector<image::Grid> grid = {{4, 4}};
  const std::vector<float> patches = Patches(grid, 1);
  CancelSource source;
  source.Cancel();
  EXPECT_EQ(tower->Encode(patches, grid, source.token()).status().code(),
            absl::StatusCode::kCancelled);
  for (const std::vector<image::Grid>& grids : std::vector<std::vector<image::Grid>>{
           {}, {{4, 6}}, {{3, 4}}, {{0, 4}}, {{-4, -4}}, {{4, 4}, {2, 2}}, {{1 << 30, 1 << 30}}}) {
    EXPECT_FALSE(tower->Encode(patches, grids, {}).ok());
  }
  EXPECT_FALSE(Floats(tower->Encode(patches, grid, {})).empty());
}

}  // namespace
}  // namespace chord::engine
