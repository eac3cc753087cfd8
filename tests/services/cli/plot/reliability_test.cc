#include "services/cli/plot/reliability.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace chord::plot {
namespace {

int Coloured(const image::RgbImage& p, int r, int g, int b) {
  int count = 0;
  for (size_t i = 0; i + 2 < p.rgb.size(); i += 3) {
    count += p.rgb[i] == r && p.rgb[i + 1] == g && p.rgb[i + 2] == b;
  }
  return count;
}

TEST(ReliabilityTest, DrawsTheCurveAndItsBars) {
  std::vector<ReliabilityBin> bins(10);
  const int without = Coloured(DrawReliability(bins, "none"), 28, 92, 180);
  bins[2] = {10, 0.25, 0.3};
  bins[9] = {90, 0.95, 0.9};
  const image::RgbImage out = DrawReliability(bins, "100 answers, ECE 0.050");
  EXPECT_EQ(out.width, 480);
  EXPECT_EQ(out.height, 480);
  EXPECT_EQ(without, 0);
  EXPECT_GT(Coloured(out, 28, 92, 180), 100);
  EXPECT_GT(Coloured(out, 200, 216, 238), 1000);
  EXPECT_EQ(out.rgb, DrawReliability(bins, "100 answers, ECE 0.050").rgb);
  EXPECT_TRUE(image::EncodePng(out).ok());
}

TEST(ReliabilityTest, SurvivesNumbersThatAreNone) {
  const double nan = std::nan("");
  EXPECT_EQ(DrawReliability({}, "").width, 480);
  EXPECT_EQ(DrawReliability({{-5, 0.5, 0.5}, {3, nan, INFINITY}, {1, -7, 1e300}}, "x").width, 480);
}

}  // namespace
}  // namespace chord::plot
