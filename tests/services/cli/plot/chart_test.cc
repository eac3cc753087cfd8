#include "services/cli/plot/chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

namespace chord::plot {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr double kInfinite = std::numeric_limits<double>::infinity();

using Rgb = std::array<int, 3>;
constexpr Rgb kFirst = {0, 114, 178}, kSecond = {213, 94, 0};

// The box around all pixels of that very colour: x1, y1, x2, y2; all -1 when there is none.
std::array<int, 4> Extent(const image::RgbImage& image, const Rgb& colour) {
  std::array<int, 4> out = {-1, -1, -1, -1};
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < image.width; ++x) {
      const size_t at =
          3 * (static_cast<size_t>(y) * static_cast<size_t>(image.width) + static_cast<size_t>(x));
      if (image.rgb[at] != colour[0] || image.rgb[at + 1] != colour[1] ||
          image.rgb[at + 2] != colour[2]) {
        continue;
      }
      if (out[0] < 0) out = {x, y, x, y};
      out = {std::min(out[0], x), out[1], std::max(out[2], x), y};
    }
  }
  return out;
}

Chart Line(std::vector<std::pair<double, double>> points) {
  Chart out;
  out.series.push_back({"line", std::move(points)});
  return out;
}

TEST(TicksTest, AreRoundAndCoverTheRange) {
  EXPECT_THAT(Ticks(0, 10, 5), ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(Ticks(0, 1, 4), ElementsAre(0, DoubleNear(0.5, 1e-9), DoubleNear(1, 1e-9)));
  EXPECT_THAT(Ticks(-3, 3, 3), ElementsAre(-2, 0, 2));
  EXPECT_THAT(Ticks(1, 1, 3), IsEmpty());
  EXPECT_THAT(Ticks(0, kInfinite, 3), IsEmpty());
  EXPECT_THAT(Ticks(std::nan(""), 1, 3), IsEmpty());
}

TEST(ChartTest, AFlatLineRunsAcrossAtItsHeight) {
  const image::RgbImage flat = DrawCharts({Line({{0, 5}, {10, 5}})}, 600, 400);
  ASSERT_EQ(flat.width, 600);
  ASSERT_EQ(flat.height, 400);
  const auto low = Extent(DrawCharts({Line({{0, 1}, {1, 10}})}, 600, 400), kFirst);
  EXPECT_GT(low[2] - low[0], 450) << "the curve spans the plot";
  EXPECT_GT(low[3] - low[1], 200);
}

TEST(ChartTest, ALogarithmicAxisSpacesDecadesEqually) {
  Chart chart;
  chart.log_x = true;
  chart.y_max = 3;
  chart.series.push_back({"", {{0.1, 0}, {0.1, 3}}});
  chart.series.push_back({"", {{1, 0}, {1, 3}}});
  chart.x_marks.emplace_back(10, "");
  const image::RgbImage image = DrawCharts({chart}, 800, 300);
  const int first = Extent(image, kFirst)[2], second = Extent(image, kSecond)[2];
  // From 0.1 at the left edge (70 px) over 1 in the middle to 10 at the right edge (780 px).
  EXPECT_LT(first, 120);
  EXPECT_NEAR(second, 425, 6);
}

TEST(ChartTest, ChartsStandUnderEachOther) {
  const Chart one = Line({{0, 0}, {1, 1}});
  const image::RgbImage both = DrawCharts({one, one}, 300, 200);
  EXPECT_EQ(both.height, 400);
  const image::RgbImage single = DrawCharts({one}, 300, 200);
  const size_t half = both.rgb.size() / 2;
  EXPECT_TRUE(std::equal(single.rgb.begin(), single.rgb.end(), both.rgb.begin()));
  EXPECT_TRUE(std::equal(single.rgb.begin(), single.rgb.end(),
                         both.rgb.begin() + static_cast<std::ptrdiff_t>(half)));
}

TEST(ChartTest, SurvivesWhateverItIsGiven) {
  Chart odd;
  odd.title = std::string(5000, 'x') + "\n中文";
  odd.y_label = std::string(5000, 'y');
  odd.series = {{"", {}},
                {"nan", {{std::nan(""), 1}, {kInfinite, 2}, {3, -kInfinite}}},
                {"far", {{-1e300, 1e300}, {1e300, -1e300}}},
                {"one", {{5, 5}}}};
  odd.x_marks = {{std::nan(""), "?"}, {-5, "minus"}, {1e308, "far"}};
  for (const bool log_x : {false, true}) {
    odd.log_x = log_x;
    const image::RgbImage image = DrawCharts({odd, Chart()}, 300, 200);
    EXPECT_EQ(image.rgb.size(), 300u * 400 * 3);
  }
  EXPECT_EQ(DrawCharts({}, 1, 100'000).width, 200);
  EXPECT_EQ(DrawCharts(std::vector<Chart>(40), 200, 200).height, 16 * 200);
}

}  // namespace
}  // namespace chord::plot
