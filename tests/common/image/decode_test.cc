#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/errors.h"
#include "common/image/image.h"
#include "common/image/upright.h"
#include "tests/common/image/test_images.h"

namespace chord::image {
namespace {

using namespace testing;  // NOLINT: the image makers of this folder
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

std::vector<uint8_t> Rgb(const std::string& bytes, const DecodeOptions& options = {}) {
  const auto image = Decode(bytes, options);
  EXPECT_TRUE(image.ok()) << image.status();
  return image.ok() ? image->rgb : std::vector<uint8_t>();
}

std::string Bytes(std::initializer_list<int> values) {
  return std::string(values.begin(), values.end());
}

constexpr DecodeOptions kDropAlpha = {.alpha_on_white = false};

TEST(DecodeTest, LosslessFormatsReturnTheVeryPixels) {
  const RgbImage image = Noise(37, 23);
  EXPECT_EQ(Rgb(Png(image)), image.rgb);
  EXPECT_EQ(Rgb(Webp(image, {.lossless = true})), image.rgb);
  const auto encoded = EncodePng(image);
  ASSERT_TRUE(encoded.ok());
  EXPECT_EQ(Rgb(std::string(encoded->begin(), encoded->end())), image.rgb);
}

TEST(DecodeTest, EncodingTwiceGivesTheSameBytes) {
  EXPECT_EQ(*EncodePng(Noise(50, 40)), *EncodePng(Noise(50, 40)));
  EXPECT_FALSE(EncodePng(RgbImage{2, 2, {1, 2, 3}}).ok());
  EXPECT_FALSE(EncodePng(RgbImage{}).ok());
}

TEST(DecodeTest, LossyFormatsStayClose) {
  const RgbImage image = Noise(64, 48);
  for (const std::string& bytes :
       {Jpeg(image, {.quality = 100}), Jpeg(image, {.quality = 100, .progressive = true}),
        Webp(image)}) {
    const std::vector<uint8_t> rgb = Rgb(bytes);
    ASSERT_EQ(rgb.size(), image.rgb.size());
    int64_t sum = 0;
    for (size_t i = 0; i < rgb.size(); ++i) sum += std::abs(int{rgb[i]} - int{image.rgb[i]});
    EXPECT_LT(static_cast<double>(sum) / rgb.size(), 8);
  }
}

TEST(DecodeTest, GrayJpegBecomesRgb) {
  const std::vector<uint8_t> rgb = Rgb(Jpeg(Noise(16, 16), {.gray = true}));
  ASSERT_EQ(rgb.size(), 3u * 16 * 16);
  for (size_t i = 0; i < rgb.size(); i += 3) {
    ASSERT_TRUE(rgb[i] == rgb[i + 1] && rgb[i] == rgb[i + 2]);
  }
}

// 255 is no ink, as Adobe stores it; values are Pillow's.
TEST(DecodeTest, InkImagesAreNotInverted) {
  EXPECT_THAT(Rgb(CmykJpeg(8, 8, {255, 255, 255, 255})), Each(255));
  EXPECT_THAT(Rgb(CmykJpeg(8, 8, {255, 255, 255, 0})), Each(0));
  const std::vector<uint8_t> red = Rgb(CmykJpeg(8, 8, {255, 0, 0, 255}));
  EXPECT_THAT(std::vector<uint8_t>(red.begin(), red.begin() + 3), ElementsAre(255, 0, 0));
  const std::vector<uint8_t> mixed = Rgb(CmykJpeg(8, 8, {200, 100, 50, 180}));
  EXPECT_THAT(std::vector<uint8_t>(mixed.begin(), mixed.begin() + 3), ElementsAre(141, 71, 35));
}

// 3×2 pixels numbered row by row: 1 2 3 / 4 5 6.
TEST(DecodeTest, EveryOrientationStandsUpright) {
  RgbImage stored{3, 2, {}};
  for (uint8_t v = 1; v <= 6; ++v) stored.rgb.insert(stored.rgb.end(), {v, v, v});
  const std::vector<int> want[] = {{1, 2, 3, 4, 5, 6}, {3, 2, 1, 6, 5, 4}, {6, 5, 4, 3, 2, 1},
                                   {4, 5, 6, 1, 2, 3}, {1, 4, 2, 5, 3, 6}, {4, 1, 5, 2, 6, 3},
                                   {6, 3, 5, 2, 4, 1}, {3, 6, 2, 5, 1, 4}};
  for (int value = 1; value <= 8; ++value) {
    const auto image = Decode(Png(stored, PngChunk("eXIf", Tiff(value))), {});
    ASSERT_TRUE(image.ok());
    EXPECT_EQ(image->width, value >= 5 ? 2 : 3);
    EXPECT_EQ(image->height, value >= 5 ? 3 : 2);
    std::vector<int> got;
    for (size_t i = 0; i < image->rgb.size(); i += 3) got.push_back(image->rgb[i]);
    EXPECT_EQ(got, want[value - 1]) << value;
    EXPECT_EQ(Rgb(Png(stored, PngChunk("eXIf", Tiff(value))), DecodeOptions{.apply_exif = false}),
              stored.rgb);
  }
}

TEST(DecodeTest, TurnsImagesLargerThanATile) {
  const RgbImage stored = Noise(101, 67);
  for (int value = 5; value <= 8; ++value) {
    const RgbImage turned = Upright(stored, value);
    const int inverse = value == 6 ? 8 : value == 8 ? 6 : value;
    EXPECT_NE(turned.rgb, stored.rgb);
    EXPECT_EQ(Upright(turned, inverse).rgb, stored.rgb) << value;
  }
}

TEST(DecodeTest, AlphaIsComposedOnWhiteByTheRule) {
  const std::string rgba =
      Png({.width = 3,
           .colour_type = 6,
           .rows = Bytes({0, 10, 20, 30, 0, 10, 20, 30, 255, 10, 20, 30, 77})});
  EXPECT_THAT(Rgb(rgba), ElementsAre(255, 255, 255, 10, 20, 30, 181, 184, 187));
  EXPECT_THAT(Rgb(rgba, kDropAlpha), ElementsAre(10, 20, 30, 10, 20, 30, 10, 20, 30));
  const std::string gray_alpha =
      Png({.width = 2, .colour_type = 4, .rows = Bytes({0, 10, 77, 99, 0})});
  EXPECT_THAT(Rgb(gray_alpha), ElementsAre(181, 181, 181, 255, 255, 255));
  EXPECT_THAT(Rgb(gray_alpha, kDropAlpha), ElementsAre(10, 10, 10, 99, 99, 99));
  const std::string palette =
      Png({.width = 3,
           .colour_type = 3,
           .rows = Bytes({0, 0, 1, 2}),
           .before = PngChunk("PLTE", Bytes({10, 20, 30, 10, 20, 30, 1, 2, 3})) +
                     PngChunk("tRNS", Bytes({77, 0}))});
  EXPECT_THAT(Rgb(palette), ElementsAre(181, 184, 187, 255, 255, 255, 1, 2, 3));
  EXPECT_THAT(Rgb(palette, kDropAlpha), ElementsAre(10, 20, 30, 10, 20, 30, 1, 2, 3));
}

TEST(DecodeTest, AllTransparentIsWhite) {
  EXPECT_THAT(Rgb(Webp(Noise(9, 7), {.lossless = true, .alpha = 0})), Each(255));
  EXPECT_THAT(Rgb(Webp(Noise(9, 7), {.alpha = 0})), Each(255));
}

TEST(DecodeTest, SixteenBitsAreDividedBy257BeforeAlpha) {
  // 0x0100 is 256: floor(256 / 257) is 0, where dropping the low byte would give 1.
  EXPECT_THAT(Rgb(Png({.width = 3,
                       .depth = 16,
                       .colour_type = 0,
                       .rows = Bytes({0, 0x01, 0x00, 0x01, 0x01, 0xff, 0xff})})),
              ElementsAre(0, 0, 0, 1, 1, 1, 255, 255, 255));
  EXPECT_THAT(Rgb(Png({.width = 1,
                       .depth = 16,
                       .colour_type = 6,
                       .rows = Bytes({0, 10, 10, 20, 20, 30, 30, 77, 78})})),
              ElementsAre(181, 184, 187));
}

TEST(DecodeTest, ColourKeysAreComparedAtFullDepth) {
  const std::string gray = Png({.width = 2,
                                .depth = 16,
                                .colour_type = 0,
                                .rows = Bytes({0, 9, 9, 9, 8}),
                                .before = PngChunk("tRNS", Bytes({9, 9}))});
  EXPECT_THAT(Rgb(gray), ElementsAre(255, 255, 255, 8, 8, 8));
  const std::string rgb = Png({.width = 2,
                               .depth = 8,
                               .colour_type = 2,
                               .rows = Bytes({0, 1, 2, 3, 1, 2, 4}),
                               .before = PngChunk("tRNS", Bytes({0, 1, 0, 2, 0, 3}))});
  EXPECT_THAT(Rgb(rgb), ElementsAre(255, 255, 255, 1, 2, 4));
  const std::string two_bits = Png({.width = 4,
                                    .depth = 2,
                                    .colour_type = 0,
                                    .rows = Bytes({0, 0x1b}),
                                    .before = PngChunk("tRNS", Bytes({0, 2}))});
  EXPECT_THAT(Rgb(two_bits), ElementsAre(0, 0, 0, 85, 85, 85, 255, 255, 255, 255, 255, 255));
  EXPECT_THAT(Rgb(two_bits, kDropAlpha),
              ElementsAre(0, 0, 0, 85, 85, 85, 170, 170, 170, 255, 255, 255));
}

TEST(DecodeTest, AnIndexBeyondThePaletteIsBlack) {
  EXPECT_THAT(Rgb(Png({.width = 2,
                       .colour_type = 3,
                       .rows = Bytes({0, 0, 200}),
                       .before = PngChunk("PLTE", Bytes({7, 8, 9}))})),
              ElementsAre(7, 8, 9, 0, 0, 0));
}

TEST(DecodeTest, InterlacedEqualsPlain) {
  // 5×3 gray, written by hand in the seven passes.
  const std::string passes =
      Bytes({0, 1, 0, 5, 0, 3, 0, 11, 13, 15, 0, 2, 4, 0, 12, 14, 0, 6, 7, 8, 9, 10});
  const std::vector<uint8_t> rgb =
      Rgb(Png({.width = 5, .height = 3, .colour_type = 0, .interlaced = true, .rows = passes}));
  ASSERT_EQ(rgb.size(), 45u);
  for (int i = 0; i < 15; ++i) EXPECT_EQ(rgb[3 * i], i + 1);
}

TEST(DecodeTest, ColourProfilesAreIgnored) {
  const RgbImage image = Noise(6, 6);
  EXPECT_EQ(Rgb(Png(image, PngChunk("gAMA", Be32(100000)) + PngChunk("sRGB", Bytes({0})) +
                               PngChunk("iCCP", "broken"))),
            image.rgb);
}

TEST(DecodeTest, BytesBehindTheEndAreIgnored) {
  const RgbImage image = Noise(20, 20);
  EXPECT_EQ(Rgb(Png(image) + "junk"), image.rgb);
  EXPECT_EQ(Rgb(Webp(image, {.lossless = true}) + "junk"), image.rgb);
  EXPECT_EQ(Rgb(Jpeg(image) + "junk"), Rgb(Jpeg(image)));
}

TEST(DecodeTest, StopsWhenCancelled) {
  CancelSource source;
  source.Cancel();
  for (const std::string& bytes : {Jpeg(Noise(20, 20)), Png(Noise(20, 20)), Webp(Noise(20, 20))}) {
    EXPECT_EQ(Decode(bytes, {}, source.token()).status().code(), absl::StatusCode::kCancelled);
  }
}

}  // namespace
}  // namespace chord::image
