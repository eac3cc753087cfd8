#include "services/gateway/prompt.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "tests/support/has_reason.h"

namespace chord::gateway {
namespace {

using std::string_literals::operator""s;

TEST(CheckPrompt, RefusesEmptyLongIllFormedAndNul) {
  const struct {
    std::string prompt;
    const char* reason;
  } cases[] = {{"", "PROMPT_EMPTY"},
               {" \t\r\n", "PROMPT_EMPTY"},
               {"\u3000\u200B\uFEFF", "PROMPT_EMPTY"},
               {std::string(17, 'x'), "PROMPT_TOO_LONG"},
               {"a\xFF", "PROMPT_NOT_UTF8"},
               {"a\0b"s, "PROMPT_HAS_NUL"}};
  for (const auto& c : cases) EXPECT_EQ(ErrorReason(CheckPrompt(c.prompt, 16)), c.reason);
  for (const char* good : {"x", "0123456789abcdef", "<|image_pad|>", "白色的花瓶"}) {
    EXPECT_TRUE(CheckPrompt(good, 16).ok()) << good;
  }
}

TEST(HasCjk, TellsTheWriting) {
  EXPECT_TRUE(HasCjk("the 红 one"));
  EXPECT_TRUE(HasCjk("りんご"));
  EXPECT_TRUE(HasCjk("\U00020000"));
  EXPECT_FALSE(HasCjk("the white vase, café 😀"));
}

TEST(WrapPrompt, AsksForJsonInTheRequestsLanguage) {
  const struct {
    const char *prompt, *wrapped;
  } cases[] = {
      {"the white vase", "Locate the white vase, output its bbox coordinates using JSON format."},
      {"white vase.", "Locate the white vase, output its bbox coordinates using JSON format."},
      {"Find the vase!", "Find the vase, output its bbox coordinates using JSON format."},
      {"all windows",
       "Outline the position of all windows and output all the coordinates in JSON format."},
      {"alligator", "Locate the alligator, output its bbox coordinates using JSON format."},
      {"右下角的红色椅子", "定位右下角的红色椅子，以JSON格式输出其bbox坐标"},
      {"找出红苹果。", "找出红苹果，以JSON格式输出其bbox坐标"},
      {"所有的窗户", "框出所有的窗户的位置，以json格式输出所有的坐标"},
      {"Give bbox of the cat", "Give bbox of the cat"},
      {"输出猫的坐标", "输出猫的坐标"},
      {"...", "..."}};
  for (const auto& c : cases) {
    EXPECT_EQ(WrapPrompt(PromptWrapper::kJson, c.prompt), c.wrapped);
    EXPECT_EQ(WrapPrompt(PromptWrapper::kNone, c.prompt), c.prompt);
  }
}

TEST(WrapPrompt, OnlyWordsThatNameTheOutputFormStandForIt) {
  for (const char* prompt :
       {"the coordinated dress", "the jsonfile icon", "the bboxer dog", "the JSON file icon",
        "the coordinate axes", "the coordinate grid paper", "uncoordinated dancers"}) {
    EXPECT_EQ(WrapPrompt(PromptWrapper::kJson, prompt),
              absl::StrCat("Locate ", absl::StartsWith(prompt, "the") ? "" : "the ", prompt,
                           ", output its bbox coordinates using JSON format."));
  }
  for (const char* prompt : {"坐标轴", "坐标系的原点", "黑板上的坐标纸", "JSON文件图标"}) {
    EXPECT_EQ(WrapPrompt(PromptWrapper::kJson, prompt),
              absl::StrCat("定位", prompt, "，以JSON格式输出其bbox坐标"));
  }
  for (const char* prompt :
       {"the cat, as JSON", "Find the cat. Output coordinates.", "give me its bbox_2d",
        "the coordinates of the cat", "Bounding boxes of cats", "以json格式输出猫", "猫的坐标。",
        "以坐标格式给出猫", "坐标轴的坐标", "the coordinate axis, answer in json", "貓的座標"}) {
    EXPECT_EQ(WrapPrompt(PromptWrapper::kJson, prompt), prompt);
  }
}

TEST(LoadChordFile, IsOptionalAndChecked) {
  const std::string dir = absl::StrCat(testing::TempDir(), "/chord_file-", getpid());
  std::filesystem::create_directories(dir);
  EXPECT_EQ(LoadChordFile(dir)->wrapper, PromptWrapper::kJson);
  const auto load = [&](const char* text) {
    std::ofstream(dir + "/chord.json") << text;
    return LoadChordFile(dir);
  };
  const auto good = load(R"({"name": "nano", "prompt_wrapper": "none", "later": 1})");
  ASSERT_TRUE(good.ok());
  EXPECT_EQ(good->name, "nano");
  EXPECT_EQ(good->wrapper, PromptWrapper::kNone);
  EXPECT_EQ(good->label_passes, LabelPasses::kOne) << "general models take a list of classes";
  EXPECT_EQ(load(R"({"label_passes": "per_label"})")->label_passes, LabelPasses::kPerLabel);
  EXPECT_EQ(load(R"({"label_passes": "one"})")->label_passes, LabelPasses::kOne);
  for (const char* bad : {"", "[]", "{", R"({"name": 1})", R"({"prompt_wrapper": "xml"})",
                          R"({"label_passes": "two"})", R"({"label_passes": 1})"}) {
    EXPECT_THAT(load(bad).status(), HasReason(Reason::kCheckpointInvalid)) << bad;
  }
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace chord::gateway
