#include "common/engine/window_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace chord::engine {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;

// Ends of the segments, which must follow each other from 0 without holes.
std::vector<int64_t> Ends(const std::vector<Segment>& segments) {
  std::vector<int64_t> ends;
  int64_t next = 0;
  for (const Segment& segment : segments) {
    EXPECT_EQ(segment.begin, next);
    EXPECT_GT(segment.length, 0);
    next = segment.begin + segment.length;
    ends.push_back(next);
  }
  return ends;
}

std::vector<int32_t> Iota(int n) {
  std::vector<int32_t> values(n);
  std::iota(values.begin(), values.end(), 0);
  return values;
}

WindowLayout Plan(std::vector<image::Grid> grids) { return PlanWindows(grids, 2, 4); }

TEST(PlanWindows, CutsAPartColumn) {
  const WindowLayout layout = Plan({{6, 10}});
  EXPECT_THAT(layout.index, ElementsAre(0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 4, 9, 14));
  EXPECT_THAT(Ends(layout.windows), ElementsAre(48, 60));
  EXPECT_THAT(Ends(layout.images), ElementsAre(60));
}

TEST(PlanWindows, CutsAPartRow) {
  const WindowLayout layout = Plan({{10, 6}});
  EXPECT_THAT(layout.index, ElementsAreArray(Iota(15)));
  EXPECT_THAT(Ends(layout.windows), ElementsAre(48, 60));
}

TEST(PlanWindows, TakesOneCellAndOneWholeWindow) {
  EXPECT_THAT(Plan({{2, 2}}).index, ElementsAre(0));
  EXPECT_THAT(Ends(Plan({{2, 2}}).windows), ElementsAre(4));
  EXPECT_THAT(Plan({{8, 8}}).index, ElementsAreArray(Iota(16)));
  EXPECT_THAT(Ends(Plan({{8, 8}}).windows), ElementsAre(64));
}

TEST(PlanWindows, CutsASingleRowOfCells) {
  EXPECT_THAT(Plan({{2, 40}}).index, ElementsAreArray(Iota(20)));
  EXPECT_THAT(Ends(Plan({{2, 40}}).windows), ElementsAre(16, 32, 48, 64, 80));
  EXPECT_THAT(Ends(Plan({{40, 2}}).windows), ElementsAre(16, 32, 48, 64, 80));
}

TEST(PlanWindows, GoesWindowByWindowThroughSeveralRows) {
  const WindowLayout layout = Plan({{16, 18}});
  EXPECT_THAT(layout.index,
              ElementsAre(0, 1, 2, 3, 9, 10, 11, 12, 18, 19, 20, 21, 27, 28, 29, 30, 4, 5, 6, 7, 13,
                          14, 15, 16, 22, 23, 24, 25, 31, 32, 33, 34, 8, 17, 26, 35, 36, 37, 38, 39,
                          45, 46, 47, 48, 54, 55, 56, 57, 63, 64, 65, 66, 40, 41, 42, 43, 49, 50,
                          51, 52, 58, 59, 60, 61, 67, 68, 69, 70, 44, 53, 62, 71));
  EXPECT_THAT(Ends(layout.windows), ElementsAre(64, 128, 144, 208, 272, 288));
}

TEST(PlanWindows, KeepsImagesApart) {
  const WindowLayout layout = Plan({{4, 4}, {6, 10}});
  EXPECT_THAT(layout.index,
              ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 17, 8, 13, 18));
  EXPECT_THAT(Ends(layout.windows), ElementsAre(16, 64, 76));
  EXPECT_THAT(Ends(layout.images), ElementsAre(16, 76));
}

TEST(PlanWindows, OrdersBySizeWithinAnImageForTheTower) {
  WindowLayout layout = Plan({{4, 4}, {16, 18}});
  GroupBySize(&layout);
  EXPECT_THAT(Ends(layout.windows), ElementsAre(16, 80, 144, 208, 272, 288, 304));
  EXPECT_THAT(Ends(layout.images), ElementsAre(16, 304));
  std::vector<int32_t> sorted = layout.index;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_THAT(sorted, ElementsAreArray(Iota(76)));
  // The last window is the lower part column: cells 44, 53, 62, 71 of the second image.
  EXPECT_THAT(std::vector<int32_t>(layout.index.end() - 4, layout.index.end()),
              ElementsAre(48, 57, 66, 75));
}

}  // namespace
}  // namespace chord::engine
