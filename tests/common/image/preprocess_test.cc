#include "common/image/preprocess.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/common/image/test_images.h"

namespace chord::image {
namespace {

using ::testing::ElementsAre;
using testing::Noise;

RgbImage Gray(int width, int height, const std::vector<int>& values) {
  RgbImage image{width, height, {}};
  for (int v : values) image.rgb.insert(image.rgb.end(), 3, static_cast<uint8_t>(v));
  return image;
}
std::vector<int> FirstChannel(const RgbImage& image) {
  std::vector<int> values;
  for (size_t i = 0; i < image.rgb.size(); i += 3) values.push_back(image.rgb[i]);
  return values;
}

// A plain transcription of the specification, one sample at a time, for one axis.
RgbImage ResizeAcross(const RgbImage& in, int m, ResizeMode mode) {
  const int n = in.width;
  const double scale = static_cast<double>(n) / m, fs = std::max(scale, 1.0), support = 2 * fs;
  const auto bicubic = [](double x) {
    x = std::fabs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * -0.5;
    return 0.0;
  };
  std::vector<std::vector<double>> weights(m);
  std::vector<int> first(m);
  double largest = 0;
  for (int i = 0; i < m; ++i) {
    const double c = (i + 0.5) * scale;
    first[i] = std::max(0, static_cast<int>(c - support + 0.5));
    const int end = std::min(n, static_cast<int>(c + support + 0.5));
    double sum = 0;
    for (int j = first[i]; j < end; ++j) {
      weights[i].push_back(bicubic((j - c + 0.5) * (1 / fs)));
      sum += weights[i].back();
    }
    for (double& w : weights[i]) largest = std::max(largest, w /= sum);
  }
  int precision = 22;
  if (mode == ResizeMode::kTorch) {
    precision = 0;
    while (precision < 22 && std::trunc(0.5 + largest * std::pow(2, precision + 1)) < 32768) {
      ++precision;
    }
  }
  RgbImage out{m, in.height, {}};
  for (int y = 0; y < in.height; ++y) {
    for (int i = 0; i < m; ++i) {
      for (int ch = 0; ch < 3; ++ch) {
        int64_t sum = int64_t{1} << (precision - 1);
        for (size_t j = 0; j < weights[i].size(); ++j) {
          const double k = weights[i][j] * std::pow(2, precision);
          sum += static_cast<int64_t>(std::trunc(k < 0 ? k - 0.5 : k + 0.5)) *
                 in.rgb[3 * (size_t{1} * y * n + first[i] + j) + ch];
        }
        out.rgb.push_back(static_cast<uint8_t>(std::clamp<int64_t>(sum >> precision, 0, 255)));
      }
    }
  }
  return out;
}
RgbImage Transposed(const RgbImage& in) {
  RgbImage out{in.height, in.width, {}};
  for (int x = 0; x < in.width; ++x) {
    for (int y = 0; y < in.height; ++y) {
      const auto at = in.rgb.begin() + 3 * (y * in.width + x);
      out.rgb.insert(out.rgb.end(), at, at + 3);
    }
  }
  return out;
}
RgbImage ResizeDown(const RgbImage& in, int m, ResizeMode mode) {
  return Transposed(ResizeAcross(Transposed(in), m, mode));
}

TEST(ResizeTest, EqualsTheWorkedExample) {
  const RgbImage row = Gray(5, 1, {0, 10, 200, 255, 30});
  for (ResizeMode mode : {ResizeMode::kTorch, ResizeMode::kPillow}) {
    EXPECT_THAT(FirstChannel(Resize(row, {4, 1}, mode)), ElementsAre(0, 81, 252, 75));
    EXPECT_THAT(FirstChannel(Resize(Transposed(row), {1, 4}, mode)), ElementsAre(0, 81, 252, 75));
  }
}

TEST(ResizeTest, EqualsThePlainFormulaInBothModes) {
  const Size sizes[] = {{1, 1}, {2, 3}, {16, 16}, {17, 15}, {33, 40}, {47, 5}, {100, 64}, {61, 97}};
  for (ResizeMode mode : {ResizeMode::kTorch, ResizeMode::kPillow}) {
    for (const Size& from : sizes) {
      const RgbImage in = Noise(from.width, from.height);
      for (const Size& to : sizes) {
        RgbImage want = in;
        if (to.width != from.width) want = ResizeAcross(want, to.width, mode);
        if (to.height != from.height) want = ResizeDown(want, to.height, mode);
        const RgbImage got = Resize(in, to, mode);
        ASSERT_EQ(got.width, to.width);
        ASSERT_EQ(got.height, to.height);
        ASSERT_EQ(got.rgb, want.rgb)
            << from.width << "x" << from.height << " to " << to.width << "x" << to.height;
      }
    }
  }
}

TEST(ResizeTest, OnlyPillowTurnsItsPassesForTallImagesThatBecomeLower) {
  const RgbImage tall = Noise(8, 808);
  const auto across_first = [&](Size to, ResizeMode mode) {
    return ResizeDown(ResizeAcross(tall, to.width, mode), to.height, mode).rgb;
  };
  const auto down_first = [&](Size to, ResizeMode mode) {
    return ResizeAcross(ResizeDown(tall, to.height, mode), to.width, mode).rgb;
  };
  const Size lower = {13, 500};
  const Size higher = {13, 900};
  EXPECT_NE(across_first(lower, ResizeMode::kPillow), down_first(lower, ResizeMode::kPillow));
  EXPECT_EQ(Resize(tall, lower, ResizeMode::kPillow).rgb, down_first(lower, ResizeMode::kPillow));
  EXPECT_EQ(Resize(tall, higher, ResizeMode::kPillow).rgb,
            across_first(higher, ResizeMode::kPillow));
  EXPECT_EQ(Resize(tall, lower, ResizeMode::kTorch).rgb, across_first(lower, ResizeMode::kTorch));
}

TEST(ResizeTest, LeavesAnImageOfTheRightSizeAlone) {
  const RgbImage image = Noise(28, 56);
  EXPECT_EQ(Resize(image, {28, 56}, ResizeMode::kTorch).rgb, image.rgb);
}

std::vector<float> Patches(const RgbImage& image, const PatchGeometry& geometry, ResizeMode mode,
                           const Normalization& normalization = {}) {
  std::vector<float> out(image.rgb.size() * geometry.temporal_patch_size);
  EXPECT_TRUE(Patchify(image, geometry, normalization, mode, absl::MakeSpan(out)).ok());
  return out;
}

// The value table of the specification.
TEST(PatchifyTest, NormalisesInTheFloatOrderOfEachMode) {
  const PatchGeometry pixel = {.patch_size = 1, .merge_size = 1, .temporal_patch_size = 1};
  EXPECT_THAT(Patches(Gray(1, 1, {0}), pixel, ResizeMode::kTorch),
              ElementsAre(-1.7922625541687012f, -1.7520970106124878f, -1.480219841003418f));
  EXPECT_THAT(Patches(Gray(1, 1, {127}), pixel, ResizeMode::kTorch),
              ElementsAre(0.061737582087516785f, 0.15388938784599304f, 0.3257286250591278f));
  EXPECT_THAT(Patches(Gray(1, 1, {255}), pixel, ResizeMode::kTorch),
              ElementsAre(1.9303362369537354f, 2.074883460998535f, 2.145897150039673f));
  const Normalization n;
  for (int v = 0; v < 256; ++v) {
    const float z = static_cast<float>(v * 0.00392156862745098);
    EXPECT_THAT(Patches(Gray(1, 1, {v}), pixel, ResizeMode::kPillow),
                ElementsAre((z - n.mean[0]) / n.std[0], (z - n.mean[1]) / n.std[1],
                            (z - n.mean[2]) / n.std[2]));
  }
  EXPECT_THAT(Patches(Gray(1, 1, {255}), pixel, ResizeMode::kTorch,
                      {.mean = {0.5f, 0.25f, 0.0f}, .std = {0.5f, 0.25f, 1.0f}}),
              ElementsAre(1.0f, 3.0f, 1.0f));
}

// Every output is compared with the index formula, for the real geometry and an odd one.
TEST(PatchifyTest, OrdersRowsByMergeGroupAndColumnsByChannelFrameAndPixel) {
  for (const PatchGeometry& g :
       {PatchGeometry{},
        PatchGeometry{.patch_size = 5, .merge_size = 3, .temporal_patch_size = 3}}) {
    const int p = g.patch_size, m = g.merge_size, t = g.temporal_patch_size;
    const RgbImage image = Noise(3 * g.factor(), 2 * g.factor());
    const int grid_w = 3 * m;
    const std::vector<float> out =
        Patches(image, g, ResizeMode::kTorch, {.mean = {0, 0, 0}, .std = {1, 1, 1}});
    const size_t columns = size_t{3} * t * p * p;
    for (size_t i = 0; i < out.size(); ++i) {
      const int r = static_cast<int>(i / columns), c = static_cast<int>(i % columns);
      const int group = r / (m * m), cell = r % (m * m);
      const int y = (group / (grid_w / m) * m + cell / m) * p + c / p % p;
      const int x = (group % (grid_w / m) * m + cell % m) * p + c % p;
      const int channel = c / (t * p * p);
      ASSERT_EQ(out[i], image.rgb[3 * (y * image.width + x) + channel] / 255.0f) << i;
    }
  }
}

TEST(PatchifyTest, RefusesWhatDoesNotFit) {
  std::vector<float> out(28 * 28 * 3 * 2);
  EXPECT_TRUE(Patchify(Noise(28, 28), {}, {}, ResizeMode::kTorch, absl::MakeSpan(out)).ok());
  EXPECT_FALSE(Patchify(Noise(28, 29), {}, {}, ResizeMode::kTorch, absl::MakeSpan(out)).ok());
  EXPECT_FALSE(Patchify(Noise(56, 28), {}, {}, ResizeMode::kTorch, absl::MakeSpan(out)).ok());
  EXPECT_FALSE(
      Patchify(Noise(28, 28), {.patch_size = 0}, {}, ResizeMode::kTorch, absl::MakeSpan(out)).ok());
}

}  // namespace
}  // namespace chord::image
