#include "common/grounding/points.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace chord::grounding {
namespace {

using testing::DoubleEq;
using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> Read(absl::string_view text) {
  std::vector<std::string> out;
  for (const RawPoint& point : ParsePoints(text)) {
    EXPECT_LE(point.begin, point.coords_begin);
    EXPECT_LT(point.coords_begin, point.coords_end);
    EXPECT_LE(point.coords_end, point.end);
    EXPECT_LE(point.end, text.size());
    out.push_back(point.label + ":" + std::to_string(std::lround(point.x)) + "," +
                  std::to_string(std::lround(point.y)));
  }
  return out;
}

TEST(ParsePoints, ReadsTheJsonFormOfTheModel) {
  EXPECT_THAT(Read("```json\n[\n\t{\"point_2d\": [394, 52], \"label\": \"rolling pin\"},\n"
                   "\t{\"point_2d\": [10, 20], \"label\": \"cup\"}\n]\n```"),
              ElementsAre("rolling pin:394,52", "cup:10,20"));
}

TEST(ParsePoints, ReadsVariantsOfTheJsonForm) {
  struct Case {
    absl::string_view text;
    std::vector<std::string> points;
  };
  for (const Case& c : std::vector<Case>{
           {R"({"point_2d": ["38", "314"], "label": "person"})", {"person:38,314"}},
           {R"({"point_2d": "38, 314", "label": "person"})", {"person:38,314"}},
           {R"({"label": "a", "point": [1, 2]})", {"a:1,2"}},
           {R"({"points": [[1, 2], [3, 4]], "label": "a"})", {"a:1,2", "a:3,4"}},
           {R"({"point_2d": [1.4, 2.6]})", {":1,3"}},
           {R"({"objects": [{"point_2d": [1, 2], "label": "a"}]})", {"a:1,2"}},
           {R"({"label": "say \"x\" {", "point_2d": [1, 2]})", {"say \"x\" {:1,2"}},
           {R"({"label": "杯子", "point_2d": [1, 2]})", {"\xE6\x9D\xAF\xE5\xAD\x90:1,2"}},
           {R"(The cup is here: {"point_2d": [5, 6], "label": "cup"}. Done.)", {"cup:5,6"}},
       }) {
    EXPECT_EQ(Read(c.text), c.points) << c.text;
  }
}

TEST(ParsePoints, ReadsTheXmlFormOfTheModel) {
  EXPECT_THAT(Read("<points x=\"394\" y=\"52\" alt=\"the pin\">the rolling pin</points>"),
              ElementsAre("the pin:394,52"));
  EXPECT_THAT(Read("<points x1=\"1\" y1=\"2\" x2=\"3\" y2=\"4\">cups</points>"),
              ElementsAre("cups:1,2", "cups:3,4"));
  EXPECT_THAT(Read("Here: <point x=\"1.0\" y=\"2\">a</point> and <point x=\"3\" y=\"4\">b</point>"),
              ElementsAre("a:1,2", "b:3,4"));
}

TEST(ParsePoints, LeavesWhatIsNoPoint) {
  for (absl::string_view text :
       {"", "no point", R"([{"bbox_2d": [1, 2, 3, 4], "label": "cup"}])",
        R"({"point_2d": [1, 2, 3]})", R"({"point_2d": [1]})", R"({"point_2d": []})",
        R"({"point_2d": ["x", "y"]})", R"({"point_2d": [1, 2])", R"("point_2d": [1, 2])",
        R"({"point_2d": [1e999, 2]})", R"(<points x="1">a</points>)",
        R"(<points x="1" y="2">never closed)", R"(<points y="1" x="2">a</points>)",
        R"({"label": "never closed)"}) {
    EXPECT_THAT(Read(text), IsEmpty()) << text;
  }
}

TEST(ParsePoints, TellsAPointOnce) {
  EXPECT_THAT(Read(R"([{"point_2d": [1, 2], "label": "a"}, {"point_2d": [1, 2], "label": "a"},)"
                   R"({"point_2d": [1, 2], "label": "b"}])"),
              ElementsAre("a:1,2", "b:1,2"));
}

TEST(ParsePoints, IsBoundedOnHostileTexts) {
  std::string many = "[";
  for (int i = 0; i < 6000; ++i) many += "{\"point_2d\": [" + std::to_string(i) + ", 1]},";
  EXPECT_EQ(ParsePoints(many).size(), kMaxPoints);
  EXPECT_THAT(ParsePoints(std::string(200'000, '{')), IsEmpty());
  EXPECT_THAT(ParsePoints("{" + std::string(200'000, '"')), IsEmpty());
  std::string open;
  for (int i = 0; i < 50'000; ++i) open += "<point x=\"1\" ";
  EXPECT_THAT(ParsePoints(open), IsEmpty());
}

image::FramePlan Plan(image::Size upright, image::Size resized) {
  image::FramePlan plan;
  plan.upright = upright;
  plan.resized = resized;
  return plan;
}

TEST(ToUpright, ScalesEachAxisIntoTheImage) {
  const image::FramePlan plan = Plan({1000, 300}, {500, 600});
  const auto at = [&](double x, double y) {
    RawPoint point;
    point.x = x;
    point.y = y;
    return ToUpright(point, plan);
  };
  EXPECT_EQ(at(250, 300), (PixelPoint{500, 150}));
  EXPECT_EQ(at(0, 0), (PixelPoint{0, 0}));
  EXPECT_EQ(at(500, 600), (PixelPoint{999, 299}));
  EXPECT_EQ(at(-1, 0), std::nullopt);
  EXPECT_EQ(at(0, 601), std::nullopt);
  EXPECT_EQ(at(std::nan(""), 1), std::nullopt);
}

TEST(PointConfidence, IsTheGeometricMeanOfTheCoordinateTokens) {
  const std::string text = R"({"point_2d": [12, 3]})";
  const auto points = ParsePoints(text);
  ASSERT_EQ(points.size(), 1u);
  TokenRecord record;
  record.token_ends = {14, 15, 16, 18, 19, 21};  // before, 1, 2, ", ", 3, after
  record.log_probabilities = {-9, std::log(0.5), std::log(0.5), -7, std::log(0.25), -9};
  record.forced = {false, false, false, true, false, false};
  EXPECT_THAT(PointConfidence(points[0], text, record), DoubleEq(std::cbrt(0.0625)));
  record.log_probabilities.pop_back();
  EXPECT_EQ(PointConfidence(points[0], text, record), 0);
  EXPECT_EQ(PointConfidence(points[0], text, {}), 0);
}

TEST(RenderPoints, PutsOriginalPixelsIntoTheText) {
  const image::FramePlan plan = Plan({200, 200}, {100, 100});
  const auto render = [&](absl::string_view text) {
    const auto points = ParsePoints(text);
    std::vector<std::optional<PixelPoint>> places;
    for (const RawPoint& point : points) places.push_back(ToUpright(point, plan));
    return RenderPoints(text, points, places);
  };
  EXPECT_EQ(render("```json\n[{\"point_2d\": [1, 2], \"label\": \"a\"},\n {\"point_2d\": [3, 4], "
                   "\"label\": \"b\"}]\n```"),
            "a <point>(2,4)</point>, b <point>(6,8)</point>");
  EXPECT_EQ(render("Here: <points x1=\"1\" y1=\"2\" x2=\"3\" y2=\"4\">cups</points> Bye."),
            "Here:\ncups <point>(2,4)</point>, cups <point>(6,8)</point>\nBye.");
  EXPECT_EQ(render(R"([{"point_2d": [500, 2], "label": "outside"}])"), "");
  EXPECT_EQ(render("nothing"), "nothing");
}

}  // namespace
}  // namespace chord::grounding
