#include "services/gateway/answer_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace chord::gateway {
namespace {

using ::testing::DoubleNear;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

image::FramePlan Frame() {
  image::FramePlan out;
  out.upright = {200, 100};
  out.resized = {100, 100};
  return out;
}

// Each token with its probability.
ModelAnswer Answer(const std::vector<std::pair<std::string, double>>& tokens) {
  ModelAnswer out;
  for (const auto& [token, p] : tokens) {
    out.text += token;
    out.token_ends.push_back(static_cast<int64_t>(out.text.size()));
    out.log_probabilities.push_back(std::log(p));
  }
  return out;
}

ModelAnswer OneBox(double p) {
  return Answer(
      {{"[{\"bbox_2d\": [", 1}, {"10, 20, 30, 40", p}, {"], \"label\": \"cup\"}", 1}, {"]", 1}});
}

GroundResult Fill(const ModelAnswer& answer, const grounding::ConfidenceMap* map = nullptr,
                  bool chinese = false) {
  GroundResult out;
  FillAnswer(answer, Frame(), chinese, Thresholds{}, map, out);
  return out;
}

// Knots that turn a linear score into itself, clamped to 0 - 1.
grounding::MonotoneMap Line(double bias, std::vector<double> weights) {
  return {bias, std::move(weights), {{0, 0, 1}, {1, 1, 1}}};
}

grounding::ConfidenceMap Constant(double box, double absent, double answer) {
  grounding::ConfidenceMap out;
  out.box = Line(box, std::vector<double>(grounding::kBoxFeatures, 0));
  out.absent = Line(absent, std::vector<double>(grounding::kAbsentFeatures, 0));
  out.answer = Line(answer, std::vector<double>(grounding::kAnswerFeatures, 0));
  return out;
}

TEST(FillAnswerTest, GivesRawScoresWithoutAMap) {
  const GroundResult out = Fill(OneBox(0.6));
  ASSERT_EQ(out.objects.size(), 1u);
  EXPECT_EQ(out.objects[0].box, (image::Box{20, 20, 60, 40}));
  EXPECT_NEAR(out.objects[0].confidence, 0.6, 1e-9);
  EXPECT_NEAR(*out.confidence, 0.6, 1e-9);
  EXPECT_FALSE(out.calibrated);
  EXPECT_TRUE(out.objects[0].needs_review);
}

TEST(FillAnswerTest, GivesTheMapsProbabilitiesWithOne) {
  const auto map = Constant(0.9, 0.3, 0.8);
  GroundResult out = Fill(OneBox(0.6), &map);
  EXPECT_TRUE(out.calibrated);
  EXPECT_NEAR(out.objects[0].confidence, 0.9, 1e-9);
  EXPECT_NEAR(*out.confidence, 0.8, 1e-9);
  EXPECT_FALSE(out.objects[0].needs_review);
  EXPECT_THAT(out.advice, IsEmpty());
  out = Fill(Answer({{"[]", 0.99}}), &map);
  EXPECT_NEAR(*out.confidence, 0.3, 1e-9);
  EXPECT_TRUE(out.calibrated);
}

TEST(FillAnswerTest, NeverTrustsAnAnswerMoreThanItsWeakestBox) {
  const auto map = Constant(0.5, 0.5, 0.99);
  EXPECT_NEAR(*Fill(OneBox(0.6), &map).confidence, 0.5, 1e-9);
}

TEST(FillAnswerTest, AdvisesBelowOneThresholdAndMarksBelowTheOther) {
  const struct {
    double p;
    bool advice, review;
  } cases[] = {{0.76, false, false}, {0.74, true, false}, {0.69, true, true}, {0, true, true}};
  for (const auto& c : cases) {
    const auto map = Constant(c.p, 0, 1);
    const GroundResult out = Fill(OneBox(0.9), &map);
    EXPECT_EQ(!out.advice.empty(), c.advice) << c.p;
    EXPECT_EQ(out.objects[0].needs_review, c.review) << c.p;
  }
  EXPECT_THAT(Fill(OneBox(0.1), nullptr, true).advice, HasSubstr("所有"));
}

TEST(FillAnswerTest, HasNoConfidenceWhereTheNumbersDoNotFitTheText) {
  const auto map = Constant(0.9, 0.9, 0.9);
  ModelAnswer answer = OneBox(0.6);
  answer.token_ends.back() += 1;
  const GroundResult out = Fill(answer, &map);
  EXPECT_EQ(out.objects.at(0).confidence, 0);
  EXPECT_EQ(out.confidence, 0);
  EXPECT_FALSE(out.calibrated);
  EXPECT_FALSE(out.evidence.has_value());
}

TEST(FillAnswerTest, TakesNeitherWordsNorBoxesOutsideForAnAbsence) {
  const auto map = Constant(0.9, 0.9, 0.9);
  EXPECT_EQ(Fill(Answer({{"It is not there.", 0.9}}), &map).confidence, 0);
  EXPECT_EQ(Fill(Answer({{"[{\"bbox_2d\": [500, 500, 600, 600]}]", 0.9}}), &map).confidence, 0);
}

TEST(FillAnswerTest, ATruncatedAnswerWithoutABoxSaysNothingAboutAbsence) {
  const auto map = Constant(0.9, 0.9, 0.9);
  for (const char* text : {"", "[", "[{\"bbox_2d\": [10, 20", "There is"}) {
    ModelAnswer answer = Answer({{text, 0.9}});
    answer.cut = answer.truncated = true;
    answer.log_probability_empty = std::log(0.8);
    const GroundResult out = Fill(answer, &map);
    EXPECT_THAT(out.objects, IsEmpty()) << text;
    EXPECT_EQ(out.confidence, std::nullopt) << text;
    EXPECT_FALSE(out.calibrated) << text;
    EXPECT_TRUE(out.truncated) << text;
    EXPECT_THAT(out.advice, HasSubstr("max_new_tokens")) << text;
    EXPECT_THAT(out.text, Not(HasSubstr("10, 20"))) << text;
    EXPECT_NE(out.text, "[]") << "a list is not closed in the model's name";
  }
}

// A stop sequence may end the list before the model has.
TEST(FillAnswerTest, AnAnswerThatAStopSequenceEndedBeforeItsFirstBoxIsNotAnAbsence) {
  ModelAnswer answer = Answer({{"[", 0.9}});
  answer.cut = true;
  answer.log_probability_empty = std::log(0.8);
  const GroundResult out = Fill(answer);
  EXPECT_EQ(out.confidence, std::nullopt);
  EXPECT_FALSE(out.truncated) << "max_new_tokens was not reached";
  EXPECT_EQ(out.advice, "");
}

TEST(FillAnswerTest, ATruncatedAnswerKeepsItsCompleteBoxes) {
  ModelAnswer answer = OneBox(0.9);
  answer.cut = answer.truncated = true;
  const GroundResult out = Fill(answer);
  ASSERT_EQ(out.objects.size(), 1u);
  ASSERT_TRUE(out.confidence.has_value());
  EXPECT_GT(*out.confidence, 0);
  EXPECT_TRUE(out.truncated);
  EXPECT_THAT(out.text, HasSubstr("(20,20),(60,40)"));
  EXPECT_THAT(out.advice, HasSubstr("max_new_tokens"));
  EXPECT_THAT(Fill(answer, nullptr, true).advice, HasSubstr("max_new_tokens"));
}

TEST(FillAnswerTest, KeepsTheEvidenceOfTheBoxesThatItKeeps) {
  const GroundResult out = Fill(Answer({{"[{\"bbox_2d\": [", 1},
                                        {"500, 500, 600, 600", 0.2},
                                        {"]}, ", 1},
                                        {"{\"bbox_2d\": [", 1},
                                        {"10, 20, 30, 40", 0.5},
                                        {"]}", 1},
                                        {"]", 1}}));
  ASSERT_EQ(out.objects.size(), 1u);
  ASSERT_TRUE(out.evidence.has_value());
  ASSERT_EQ(out.evidence->signals.boxes.size(), 1u);
  EXPECT_THAT(out.evidence->signals.boxes[0][grounding::kLeast], DoubleNear(std::log(0.5), 1e-9));
  EXPECT_NEAR(out.evidence->raw_confidence, *out.confidence, 1e-12);
}

}  // namespace
}  // namespace chord::gateway
