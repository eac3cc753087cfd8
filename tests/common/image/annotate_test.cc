#include "common/image/annotate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <climits>

#include "tests/common/image/test_pictures.h"

namespace chord::image {
namespace {

using testing::Noise;

constexpr std::array<uint8_t, 3> kGreen = {0, 255, 0};

std::array<uint8_t, 3> At(const Picture& p, int x, int y) {
  const uint8_t* at = p.rgb.data() + 3 * (size_t{1} * y * p.width + x);
  return {at[0], at[1], at[2]};
}

TEST(AnnotateTest, OutlinesTheBoxInGreenAndLeavesTheRestAlone) {
  const Picture picture = Noise(120, 80);
  const Picture out = Annotate(picture, {{Box{20, 10, 100, 70}, ""}});
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
        ASSERT_EQ(At(out, x, y), At(picture, x, y)) << x << " " << y;
      }
    }
  }
}

TEST(AnnotateTest, DrawsWiderOnLargerPictures) {
  const Picture out = Annotate(Noise(3000, 200), {{Box{1000, 50, 2000, 150}, ""}});
  for (int y = 45; y < 55; ++y) EXPECT_EQ(At(out, 1500, y), kGreen);
  EXPECT_NE(At(out, 1500, 40), kGreen);
}

TEST(AnnotateTest, WritesAsciiLabelsOnly) {
  const Picture picture = Noise(200, 100);
  const Box box = {20, 40, 180, 90};
  const Picture bare = Annotate(picture, {{box, ""}});
  EXPECT_NE(Annotate(picture, {{box, "cup"}}).rgb, bare.rgb);
  EXPECT_EQ(Annotate(picture, {{box, "杯子"}}).rgb, bare.rgb);
  EXPECT_EQ(Annotate(picture, {{box, "a\nb"}}).rgb, bare.rgb);
  EXPECT_EQ(Annotate(picture, {{box, "cup"}}).rgb, Annotate(picture, {{box, "cup"}}).rgb);
}

TEST(AnnotateTest, TakesBoxesThatLeaveThePicture) {
  const Picture picture = Noise(30, 20);
  const std::string letters(10'000, 'x');
  for (const Box& box : {Box{-50, -50, 500, 500}, Box{INT_MIN, INT_MIN, INT_MAX, INT_MAX},
                         Box{29, 19, 30, 20}, Box{100, 100, 200, 200}, Box{20, 15, 10, 5}}) {
    const Picture out = Annotate(picture, {{box, letters}});
    EXPECT_EQ(out.rgb.size(), picture.rgb.size());
  }
  EXPECT_EQ(Annotate(Noise(1, 1), {{Box{0, 0, 1, 1}, "x"}}).rgb.size(), 3u);
  EXPECT_TRUE(Annotate(Picture{}, {{Box{0, 0, 1, 1}, "x"}}).rgb.empty());
}

}  // namespace
}  // namespace chord::image
