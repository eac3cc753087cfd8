#include "common/image/frame_plan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "common/base/errors.h"
#include "tests/support/has_reason.h"

namespace chord::image {
namespace {

Header Stored(int width, int height, int orientation = 1) {
  Header header;
  header.width = width;
  header.height = height;
  header.orientation = orientation;
  return header;
}

// Rows of the specification's verified table.
TEST(SmartResizeTest, EqualsTheReference) {
  struct Row {
    int height, width;
    int64_t max_pixels;
    int out_height, out_width;
  };
  for (const Row& r : {Row{768, 1024, 12845056, 756, 1036},
                       {1080, 1920, 12845056, 1092, 1932},
                       {1080, 1920, 1003520, 728, 1316},
                       {3000, 4000, 1003520, 840, 1148},
                       {8000, 8000, 12845056, 3584, 3584},
                       {42, 42, 12845056, 56, 56},
                       {70, 98, 12845056, 56, 112},
                       {126, 154, 12845056, 112, 168},
                       {10, 10, 12845056, 56, 56},
                       {28, 28, 12845056, 56, 56},
                       {20, 30, 12845056, 56, 84},
                       {5, 900, 12845056, 28, 756},
                       {14, 2800, 12845056, 28, 812},
                       {1, 200, 12845056, 28, 812}}) {
    const auto size = SmartResize({r.width, r.height}, {.max_pixels = r.max_pixels});
    ASSERT_TRUE(size.ok());
    EXPECT_EQ(*size, (Size{r.out_width, r.out_height})) << r.height << "x" << r.width;
  }
  EXPECT_THAT(SmartResize({2801, 14}, {}).status(), HasReason(Reason::kImageAspectRatio));
}

TEST(SmartResizeTest, StaysInsideItsBoundsAndOnTheGrid) {
  std::mt19937 random(3);
  for (int i = 0; i < 100'000; ++i) {
    const PatchGeometry geometry = {.patch_size = i % 3 ? 14 : 16, .max_pixels = 12845056 >> i % 6};
    const int f = geometry.factor();
    const Size in = {1 + static_cast<int>(random() % (1 << random() % 14)),
                     1 + static_cast<int>(random() % (1 << random() % 14))};
    const auto out = SmartResize(in, geometry);
    if (std::max(in.width, in.height) > 200 * std::min(in.width, in.height)) {
      ASSERT_FALSE(out.ok());
      continue;
    }
    ASSERT_TRUE(out.ok());
    ASSERT_TRUE(out->width >= f && out->height >= f && out->width % f == 0 && out->height % f == 0);
    ASSERT_GE(int64_t{out->width} * out->height, geometry.min_pixels);
    // A single row or column of cells may exceed max_pixels, since no side goes under one cell.
    if (out->width > f && out->height > f) {
      ASSERT_LE(int64_t{out->width} * out->height, geometry.max_pixels);
    }
    // Rounding may carry the result itself beyond the ratio; elsewhere it is a fixed point.
    const auto again = SmartResize(*out, geometry);
    ASSERT_EQ(again.value_or(*out), *out);
  }
}

TEST(SmartResizeTest, RefusesSettingsThatMakeNoSense) {
  for (const PatchGeometry& g : {PatchGeometry{.patch_size = 0},
                                 {.merge_size = -1},
                                 {.patch_size = 1 << 20},
                                 {.temporal_patch_size = 0},
                                 {.min_pixels = 0},
                                 {.min_pixels = 100, .max_pixels = 99},
                                 {.min_pixels = INT64_MAX, .max_pixels = INT64_MAX}}) {
    EXPECT_THAT(SmartResize({100, 100}, g).status(), HasReason(Reason::kConfigInvalid));
  }
  EXPECT_THAT(SmartResize({0, 10}, {}).status(), HasReason(Reason::kImageZeroSide));
}

TEST(FramePlanTest, DerivesEverySizeFromTheHeader) {
  const auto plan = PlanFrame(Stored(1024, 768), {.max_pixels = 12845056});
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->upright, (Size{1024, 768}));
  EXPECT_EQ(plan->resized, (Size{1036, 756}));
  EXPECT_EQ(plan->grid, (Grid{54, 74}));
  EXPECT_EQ(plan->grid.patches(), 3996);
  EXPECT_EQ(plan->tokens, 999);
  const auto turned = PlanFrame(Stored(768, 1024, 6), {.max_pixels = 12845056});
  EXPECT_EQ(turned->upright, (Size{1024, 768}));
  EXPECT_EQ(turned->grid, plan->grid);
}

TEST(FramePlanTest, RefusesMoreTokensThanAllowed) {
  EXPECT_TRUE(PlanFrame(Stored(1024, 768), {.max_pixels = 12845056}, 999).ok());
  EXPECT_THAT(PlanFrame(Stored(1024, 768), {.max_pixels = 12845056}, 998).status(),
              HasReason(Reason::kImageTooLarge));
}

TEST(FramePlanTest, VerifiesItsOwnPlansAndNoOthers) {
  const PatchGeometry geometry;
  const FramePlan plan = *PlanFrame(Stored(640, 480, 6), geometry);
  EXPECT_TRUE(VerifyFrame(plan, geometry).ok());
  const auto refuses = [&](auto change) {
    FramePlan forged = plan;
    change(forged);
    return ErrorReason(VerifyFrame(forged, geometry)) == "FRAME_MISMATCH";
  };
  EXPECT_TRUE(refuses([](FramePlan& p) { p.tokens += 1; }));
  EXPECT_TRUE(refuses([](FramePlan& p) { p.grid.h += 2; }));
  EXPECT_TRUE(refuses([](FramePlan& p) { std::swap(p.grid.h, p.grid.w); }));
  EXPECT_TRUE(refuses([](FramePlan& p) { p.resized.width += 28; }));
  EXPECT_TRUE(refuses([](FramePlan& p) { p.upright = p.stored; }));
  EXPECT_TRUE(refuses([](FramePlan& p) { p.orientation = 1; }));
  EXPECT_TRUE(refuses([](FramePlan& p) { p.orientation = 9; }));
  EXPECT_TRUE(refuses([](FramePlan& p) { p.stored.width = 0; }));
  EXPECT_TRUE(refuses([](FramePlan& p) { p.stored = {1 << 30, 1 << 30}; }));
  EXPECT_TRUE(refuses([](FramePlan& p) { p = {}; }));
  EXPECT_FALSE(VerifyFrame(plan, {.patch_size = 16}).ok());
}

class ToUprightTest : public ::testing::Test {
 protected:
  FramePlan Plan(Size upright, Size resized) {
    FramePlan plan;
    plan.upright = upright;
    plan.resized = resized;
    return plan;
  }
};

TEST_F(ToUprightTest, ScalesEachAxisByItself) {
  const FramePlan plan = Plan({1024, 768}, {1036, 756});
  EXPECT_EQ(ToUpright({0, 0, 1036, 756}, plan), (Box{0, 0, 1024, 768}));
  EXPECT_EQ(ToUpright({518, 378, 777, 567}, plan), (Box{512, 384, 768, 576}));
}

TEST_F(ToUprightTest, OrdersClampsAndRounds) {
  const FramePlan plan = Plan({100, 100}, {200, 200});
  EXPECT_EQ(ToUpright({150, 160, 50, 40}, plan), (Box{25, 20, 75, 80}));
  EXPECT_EQ(ToUpright({-10, -10, 500, 21}, plan), (Box{0, 0, 100, 11}));
}

TEST_F(ToUprightTest, WidensAThinBoxToAPixelInsideTheImage) {
  const FramePlan plan = Plan({100, 50}, {1000, 500});
  EXPECT_EQ(ToUpright({501, 201, 502, 202}, plan), (Box{50, 20, 51, 21}));
  EXPECT_EQ(ToUpright({999, 499, 1000, 500}, plan), (Box{99, 49, 100, 50}));
  EXPECT_EQ(ToUpright({0, 0, 1, 1}, plan), (Box{0, 0, 1, 1}));
  EXPECT_EQ(ToUpright({0, 0, 28, 28}, Plan({1, 1}, {56, 56})), (Box{0, 0, 1, 1}));
}

TEST_F(ToUprightTest, DropsWhatIsOutsideEmptyOrNotFinite) {
  const FramePlan plan = Plan({100, 100}, {100, 100});
  EXPECT_EQ(ToUpright({100, 0, 120, 50}, plan), std::nullopt);
  EXPECT_EQ(ToUpright({-20, 0, 0, 50}, plan), std::nullopt);
  EXPECT_EQ(ToUpright({10, 10, 10, 50}, plan), std::nullopt);
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(ToUpright({0, 0, inf, 50}, plan), std::nullopt);
  EXPECT_EQ(ToUpright({std::nan(""), 0, 10, 50}, plan), std::nullopt);
  EXPECT_EQ(ToUpright({0, 0, 10, 10}, FramePlan{}), std::nullopt);
  EXPECT_EQ(ToUpright({-1e308, -1e308, 1e308, 1e308}, plan), (Box{0, 0, 100, 100}));
}

TEST_F(ToUprightTest, AlwaysAnswersABoxInsideTheImage) {
  std::mt19937 random(9);
  for (int i = 0; i < 100'000; ++i) {
    const auto side = [&] { return 1 + static_cast<int>(random() % 300); };
    const FramePlan plan = Plan({side(), side()}, {side(), side()});
    const auto at = [&] { return static_cast<double>(random() % 7000) / 10 - 200; };
    const auto box = ToUpright({at(), at(), at(), at()}, plan);
    if (!box) continue;
    ASSERT_TRUE(box->x1 >= 0 && box->y1 >= 0 && box->x1 < box->x2 && box->y1 < box->y2 &&
                box->x2 <= plan.upright.width && box->y2 <= plan.upright.height);
  }
}

}  // namespace
}  // namespace chord::image
