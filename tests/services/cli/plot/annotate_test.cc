#include "services/cli/plot/annotate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <climits>

#include "tests/common/image/test_images.h"

namespace chord::plot {
namespace {

using image::testing::Noise;

constexpr std::array<uint8_t, 3> kGreen = {0, 255, 0};

std::array<uint8_t, 3> At(const image::RgbImage& p, int x, int y) {
  const uint8_t* at = p.rgb.data() + 3 * (size_t{1} * y * p.width + x);
  return {at[0], at[1], at[2]};
}

TEST(AnnotateTest, OutlinesTheBoxInGreenAndLeavesTheRestAlone) {
  const image::RgbImage image = Noise(120, 80);
  const image::RgbImage out = Annotate(image, {{image::Box{20, 10, 100, 70}, ""}});
  for (int x : {20, 60, 99}) {
    EXPECT_EQ(At(out, x, 10), kGreen);
    EXPECT_EQ(At(out, x, 69), kGreen);
  }
  for (int y : {10, 40, 69}) {
    EXPECT_EQ(At(out, 20, y), kGreen);
    EXPECT_EQ(At(out, 99, y), kGreen);
  }
  for (int y = 0; y < 80; ++y) {
    for (int x = 0; x < 120; ++x) {
      const bool away = x < 18 || x > 101 || y < 8 || y > 71;
      const bool inside = x > 21 && x < 98 && y > 11 && y < 68;
      if (away || inside) {
        ASSERT_EQ(At(out, x, y), At(image, x, y)) << x << " " << y;
      }
    }
  }
}

TEST(AnnotateTest, DrawsWiderOnLargerImages) {
  const image::RgbImage out = Annotate(Noise(3000, 200), {{image::Box{1000, 50, 2000, 150}, ""}});
  for (int y = 45; y < 55; ++y) EXPECT_EQ(At(out, 1500, y), kGreen);
  EXPECT_NE(At(out, 1500, 40), kGreen);
}

TEST(AnnotateTest, WritesLabelsInAnyScriptThatAFontCovers) {
  const image::RgbImage image = Noise(200, 100);
  const image::Box box = {20, 40, 180, 90};
  const image::RgbImage bare = Annotate(image, {{box, ""}});
  EXPECT_NE(Annotate(image, {{box, "cup 0.97"}}).rgb, bare.rgb);
  EXPECT_NE(Annotate(image, {{box, "杯子 0.97"}}).rgb, bare.rgb);
  EXPECT_NE(Annotate(image, {{box, "杯子"}}).rgb, Annotate(image, {{box, "碗"}}).rgb);
  EXPECT_EQ(Annotate(image, {{box, "\n\t\x01"}}).rgb, bare.rgb);
  EXPECT_EQ(Annotate(image, {{box, "cup"}}).rgb, Annotate(image, {{box, "cup"}}).rgb);
}

TEST(AnnotateTest, DrawsBoxesForReviewInOrangeAndANoteAtTheBottom) {
  const image::RgbImage image = Noise(120, 80);
  const image::Box box = {20, 10, 100, 70};
  const image::RgbImage out = Annotate(image, {{.box = box, .needs_review = true}});
  EXPECT_EQ(At(out, 60, 10), (std::array<uint8_t, 3>{255, 160, 0}));
  const image::RgbImage noted = Annotate(image, {}, "not there 0.91");
  EXPECT_NE(noted.rgb, image.rgb);
  EXPECT_EQ(At(noted, 119, 79), (std::array<uint8_t, 3>{230, 230, 230}));
  EXPECT_EQ(At(noted, 119, 0), At(image, 119, 0));
}

TEST(AnnotateTest, TakesBoxesThatLeaveTheImage) {
  const image::RgbImage image = Noise(30, 20);
  const std::string letters(10'000, 'x');
  for (const image::Box& box :
       {image::Box{-50, -50, 500, 500}, image::Box{INT_MIN, INT_MIN, INT_MAX, INT_MAX},
        image::Box{29, 19, 30, 20}, image::Box{100, 100, 200, 200}, image::Box{20, 15, 10, 5}}) {
    const image::RgbImage out = Annotate(image, {{box, letters}});
    EXPECT_EQ(out.rgb.size(), image.rgb.size());
  }
  EXPECT_EQ(Annotate(Noise(1, 1), {{image::Box{0, 0, 1, 1}, "x"}}).rgb.size(), 3u);
  EXPECT_TRUE(Annotate(image::RgbImage{}, {{image::Box{0, 0, 1, 1}, "x"}}).rgb.empty());
}

}  // namespace
}  // namespace chord::plot
