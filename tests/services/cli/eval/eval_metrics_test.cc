#include "services/cli/eval/eval_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace chord::cli {
namespace {

using ::testing::DoubleEq;
using ::testing::ElementsAre;

const double kNan = std::nan("");

TEST(IouTest, IsSharedAreaOverJointArea) {
  const struct {
    Rect a, b;
    double iou;
  } cases[] = {
      {{0, 0, 10, 10}, {0, 0, 10, 10}, 1},    {{0, 0, 10, 10}, {5, 0, 15, 10}, 1.0 / 3},
      {{0, 0, 10, 10}, {0, 0, 10, 5}, 0.5},   {{0, 0, 10, 10}, {10, 0, 20, 10}, 0},  // they touch
      {{0, 0, 10, 10}, {20, 20, 30, 30}, 0},  {{0, 0, 0, 0}, {0, 0, 0, 0}, 0},
      {{10, 10, 0, 0}, {0, 0, 10, 10}, 0},  // corners the wrong way round
      {{kNan, 0, 10, 10}, {0, 0, 10, 10}, 0},
  };
  for (const auto& c : cases) {
    EXPECT_NEAR(Iou(c.a, c.b), c.iou, 1e-12);
    EXPECT_NEAR(Iou(c.b, c.a), c.iou, 1e-12);
  }
}

TEST(MatchTest, PairsOneToOneBestFirst) {
  const Rect a{0, 0, 10, 10}, b{20, 0, 30, 10}, nearly_a{0, 0, 10, 8}, far{80, 80, 90, 90};
  const Matching match = Match({a, b}, {far, nearly_a, a});
  EXPECT_THAT(match.truth, ElementsAre(DoubleEq(1), DoubleEq(0)));
  EXPECT_THAT(match.predicted, ElementsAre(DoubleEq(0), DoubleEq(0), DoubleEq(1)));
  EXPECT_THAT(Match({}, {a}).predicted, ElementsAre(0));
  EXPECT_THAT(Match({a, a}, {a}).truth, ElementsAre(DoubleEq(1), DoubleEq(0)));
}

TEST(CurveTest, PutsConfidencesIntoBinsOfEqualWidth) {
  const std::vector<CurveBin> curve =
      Curve({{0.0, false}, {0.05, true}, {0.1, true}, {1.0, true}, {7, true}, {kNan, false}}, 10);
  EXPECT_EQ(curve[0].count, 3);
  EXPECT_NEAR(curve[0].confidence, 0.05 / 3, 1e-12);
  EXPECT_NEAR(curve[0].right, 1.0 / 3, 1e-12);
  EXPECT_EQ(curve[1].count, 1);
  EXPECT_EQ(curve[9].count, 2);
}

TEST(EceTest, IsTheWeightedGapBetweenConfidenceAndTruth) {
  EXPECT_EQ(Ece(Curve({})), 0);
  EXPECT_NEAR(Ece(Curve({{1, true}, {1, true}})), 0, 1e-12);
  EXPECT_NEAR(Ece(Curve({{1, true}, {1, false}})), 0.5, 1e-12);
  // 4 at 0.75 with 3 right: no gap; 2 at 0.25 with none right: 0.25.
  EXPECT_NEAR(
      Ece(Curve(
          {{0.75, true}, {0.75, true}, {0.75, true}, {0.75, false}, {0.25, false}, {0.25, false}})),
      2.0 / 6 * 0.25, 1e-12);
}

TEST(FiguresTest, CountWhatTheNamesSay) {
  const Rect a{0, 0, 10, 10}, b{20, 0, 30, 10}, wrong{80, 80, 90, 90};
  Summary summary;
  summary.Add({{a}, {a}, {0.9}, 0.9});              // one, right
  summary.Add({{a, b}, {b, a}, {0.8, 0.7}, 0.7});   // several, exact in any order
  summary.Add({{a, b}, {a}, {0.6}, 0.6});           // one of two
  summary.Add({{a}, {a, wrong}, {0.9, 0.2}, 0.2});  // one too many
  summary.Add({{}, {}, {}, 0.8});                   // absent, right
  summary.Add({{}, {wrong}, {0.4}, 0.4});           // absent, and a box
  summary.Add({{a}, {}, {}, 0.3});                  // there, and not found
  EXPECT_EQ(summary.count, 7);
  EXPECT_EQ(summary.exact, 3);
  EXPECT_NEAR(*summary.acc50(), 5.0 / 7, 1e-12);
  EXPECT_NEAR(*summary.mean_iou(), 5.0 / 7, 1e-12);
  EXPECT_NEAR(*summary.several_exactness(), 0.5, 1e-12);
  EXPECT_NEAR(*summary.absent_accuracy(), 0.5, 1e-12);
  EXPECT_EQ(summary.claims.size(), 9u);  // 7 boxes, 2 absences
  EXPECT_EQ(summary.answers.size(), 7u);
  const Summary none;
  EXPECT_FALSE(none.acc50() || none.mean_iou() || none.several_exactness() ||
               none.absent_accuracy());
}

TEST(FiguresTest, TakeOfAReferringExpressionTheFirstBoxAlone) {
  const Rect a{0, 0, 10, 10}, wrong{80, 80, 90, 90};
  EXPECT_TRUE(IsExact({{a}, {a, wrong}, {1, 1}, 1, true}));
  EXPECT_FALSE(IsExact({{a}, {wrong, a}, {1, 1}, 1, true}));
  EXPECT_FALSE(IsExact({{a}, {}, {}, 1, true}));
  Summary summary;
  summary.Add({{a}, {wrong, a}, {1, 1}, 1, true});
  EXPECT_EQ(*summary.acc50(), 0);
}

}  // namespace
}  // namespace chord::cli
