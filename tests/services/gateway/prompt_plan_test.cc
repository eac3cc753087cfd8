#include "services/gateway/prompt_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/errors.h"
#include "tests/support/has_reason.h"

namespace chord::gateway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(FormAskedFor, ReadsItOffThePromptsOwnWords) {
  struct Case {
    const char* prompt;
    AnswerForm form;
  };
  for (const Case& c : std::vector<Case>{
           {"point to the cup", AnswerForm::kPoints},
           {"Point at all cups.", AnswerForm::kPoints},
           {"report point_2d of the cup", AnswerForm::kPoints},
           {"output its coordinates in XML format <points x y>object</points>",
            AnswerForm::kPoints},
           {"以点的形式定位图中的杯子", AnswerForm::kPoints},
           {"Please point to the cup", AnswerForm::kPoints},
           {"请指向杯子", AnswerForm::kPoints},
           {"point out the cup", AnswerForm::kText},
           {"the arrow that should point to the exit", AnswerForm::kText},
           {"所有指向出口的箭头", AnswerForm::kText},
           {"the point of the pencil", AnswerForm::kText},
           {"Locate the cup, output its bbox", AnswerForm::kBoxes},
           {"Detect all cups", AnswerForm::kBoxes},
           {"框出所有杯子", AnswerForm::kBoxes},
           {"检测图中的人", AnswerForm::kBoxes},
           {"what is this?", AnswerForm::kText},
           {"", AnswerForm::kText},
       }) {
    EXPECT_EQ(FormAskedFor(c.prompt), c.form) << c.prompt;
  }
}

TEST(WrapPointPrompt, AsksForThePointForm) {
  EXPECT_EQ(WrapPointPrompt(PromptWrapper::kNone, "point to the cup."), "point to the cup.");
  EXPECT_THAT(WrapPointPrompt(PromptWrapper::kJson, "point to the cup."),
              testing::AllOf(testing::StartsWith("point to the cup, "), HasSubstr("point_2d")));
  EXPECT_THAT(WrapPointPrompt(PromptWrapper::kJson, "以点的形式定位杯子"), HasSubstr("point坐标"));
  const char* own = "point to the cup, output XML <points x y>object</points>";
  EXPECT_EQ(WrapPointPrompt(PromptWrapper::kJson, own), own);
}

TEST(CheckLabels, TakesListsOfPlainTexts) {
  const auto check = [](std::vector<std::string> labels) { return CheckLabels(labels).ok(); };
  EXPECT_TRUE(check({"cup"}));
  EXPECT_TRUE(check({"red cup", "杯子"}));
  EXPECT_FALSE(check({}));
  EXPECT_FALSE(check({""}));
  EXPECT_FALSE(check({" "}));
  EXPECT_FALSE(check({"cup, plate"}));
  EXPECT_FALSE(check({"杯子、盘子"}));
  EXPECT_FALSE(check({"say \"cup\""}));
  EXPECT_FALSE(check({"cup\nplate"}));
  EXPECT_FALSE(check({"cup\xff"}));
  EXPECT_FALSE(check({"cup", "The  Cup"}));
  EXPECT_FALSE(check({std::string(129, 'x')}));
  EXPECT_FALSE(check(std::vector<std::string>(65, "x")));
}

TEST(PlanPrompt, TakesExactlyOneOfPromptLabelsAndConversation) {
  GroundInput input;
  EXPECT_THAT(PlanPrompt(input, {}, 100).status(), HasReason(Reason::kPromptEmpty));
  input.prompt = "the cup";
  auto plan = PlanPrompt(input, {}, 100);
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->prompts[0], "the cup");
  EXPECT_TRUE(plan->grammar);
  input.labels = {"cup", "plate"};
  EXPECT_THAT(PlanPrompt(input, {}, 100).status(), HasReason(Reason::kParameterInvalid));
  input.prompt.clear();
  EXPECT_EQ(PlanPrompt(input, {}, 100)->prompts[0], "all cup, plate");
  EXPECT_THAT(PlanPrompt(input, {PromptWrapper::kJson}, 100)->prompts[0], HasSubstr("cup, plate"));
  input.labels = {"杯子", "盘子"};
  EXPECT_THAT(PlanPrompt(input, {PromptWrapper::kJson}, 100)->prompts[0], HasSubstr("杯子、盘子"));
  EXPECT_TRUE(PlanPrompt(input, {PromptWrapper::kJson}, 100)->chinese);
  input.labels.clear();
  input.conversation = {{ChatTurn::Role::kUser, {{true, ""}, {false, "hello"}}}};
  EXPECT_EQ(PlanPrompt(input, {PromptWrapper::kJson}, 1)->prompts[0], "hello");
}

TEST(PlanPrompt, LabelsAreAPromptEachWhereTheModelKeepsNoClassesApart) {
  GroundInput input;
  input.labels = {"cup", "plate"};
  const auto one = PlanPrompt(input, {PromptWrapper::kNone, LabelPasses::kOne}, 100);
  EXPECT_THAT(one->prompts, ElementsAre("all cup, plate"));
  EXPECT_FALSE(one->per_label);
  const PromptStyle style = {PromptWrapper::kNone, LabelPasses::kPerLabel};
  const auto each = PlanPrompt(input, style, 100);
  EXPECT_THAT(each->prompts, ElementsAre("find every cup", "find every plate"));
  EXPECT_TRUE(each->per_label);
  EXPECT_FALSE(each->chinese);
  input.labels = {"cup", "盘子"};
  EXPECT_THAT(PlanPrompt(input, style, 100)->prompts,
              ElementsAre("find every cup", "找出所有盘子"));
  EXPECT_TRUE(PlanPrompt(input, style, 100)->chinese);
}

TEST(PlanPrompt, LabelsMayEndAConversationThatHasNoWordsThere) {
  GroundInput input;
  input.labels = {"cup"};
  input.conversation = {{ChatTurn::Role::kSystem, {{false, "Be brief."}}},
                        {ChatTurn::Role::kUser, {{true, ""}}}};
  EXPECT_THAT(PlanPrompt(input, {}, 100)->prompts, ElementsAre("find every cup"));
  input.conversation.back().parts.push_back({false, "the cup"});
  EXPECT_THAT(PlanPrompt(input, {}, 100).status(), HasReason(Reason::kParameterInvalid));
}

TEST(PlanPrompt, PointsAreNotDecodedUnderTheBoxGrammar) {
  GroundInput input;
  input.prompt = "point to the cup";
  EXPECT_FALSE(PlanPrompt(input, {}, 100)->grammar);
}

std::vector<std::string> Matched(std::vector<std::string> labels, std::vector<std::string> words) {
  std::vector<GroundObject> objects(words.size());
  for (size_t i = 0; i < words.size(); ++i) objects[i].label = words[i];
  std::vector<std::string> out;
  for (const LabelMatch& match : MatchLabels(labels, objects)) {
    std::string text = match.label + ":";
    for (int i : match.objects) text += std::to_string(i);
    out.push_back(text);
  }
  return out;
}

TEST(MatchLabels, GroupsObjectsInTheOrderOfTheLabels) {
  EXPECT_THAT(Matched({"plate", "Cup", "fork"}, {"cup", "plate", "the cup", "spoon", ""}),
              ElementsAre("plate:1", "Cup:02", "fork:"));
}

TEST(MatchLabels, KnowsPluralsAndHeadNouns) {
  EXPECT_THAT(Matched({"cups", "berry", "box"}, {"cup", "berries", "boxes", "red cups"}),
              ElementsAre("cups:03", "berry:1", "box:2"));
  EXPECT_THAT(Matched({"cup", "red cup"}, {"red cup", "big red cup", "blue cup", "teacup"}),
              ElementsAre("cup:2", "red cup:01"));
  EXPECT_THAT(Matched({"杯子"}, {"红色的杯子", "杯"}), ElementsAre("杯子:0"));
}

}  // namespace
}  // namespace chord::gateway
