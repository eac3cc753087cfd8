#include "services/gateway/point_answer.h"

#include <gtest/gtest.h>

#include <cmath>

namespace chord::gateway {
namespace {

image::FramePlan Frame() {
  image::FramePlan frame;
  frame.upright = {200, 100};
  frame.resized = {100, 100};
  return frame;
}

ModelAnswer Answered(std::string text) {
  ModelAnswer out;
  out.text = std::move(text);
  for (size_t i = 1; i <= out.text.size(); ++i) {
    out.token_ends.push_back(static_cast<int64_t>(i));
    out.log_probabilities.push_back(std::log(0.5));
  }
  return out;
}

GroundResult Filled(const ModelAnswer& answer) {
  GroundResult out;
  FillAnswer(answer, Frame(), /*chinese=*/false, {}, nullptr, out);
  FillPoints(answer, Frame(), out);
  return out;
}

TEST(FillPoints, AnswersPointsInOriginalPixels) {
  const GroundResult out =
      Filled(Answered(R"([{"point_2d": [50, 20], "label": "cup"}, {"point_2d": [500, 1]}])"));
  ASSERT_EQ(out.points.size(), 1u);
  EXPECT_EQ(out.points[0].label, "cup");
  EXPECT_EQ(out.points[0].at, (grounding::PixelPoint{100, 20}));
  EXPECT_NEAR(out.points[0].confidence, 0.5, 1e-9);
  ASSERT_TRUE(out.confidence.has_value());
  EXPECT_NEAR(*out.confidence, 0.5, 1e-9);
  EXPECT_EQ(out.text, "cup <point>(100,20)</point>");
  EXPECT_EQ(out.advice, "");
  EXPECT_FALSE(out.calibrated);
  EXPECT_TRUE(out.objects.empty());
}

TEST(FillPoints, LeavesAnswersWithBoxesAlone) {
  const ModelAnswer answer = Answered(R"([{"bbox_2d": [1, 2, 30, 40], "label": "cup"}])");
  const GroundResult out = Filled(answer);
  EXPECT_TRUE(out.points.empty());
  EXPECT_EQ(out.objects.size(), 1u);
  EXPECT_EQ(out.text, "cup <box>(2,2),(60,40)</box>");
}

TEST(FillPoints, SaysNothingOfPointsThatLieNowhere) {
  const GroundResult out = Filled(Answered(R"([{"point_2d": [500, 1], "label": "x"}])"));
  EXPECT_TRUE(out.points.empty());
  EXPECT_EQ(out.confidence, 0);
}

}  // namespace
}  // namespace chord::gateway
