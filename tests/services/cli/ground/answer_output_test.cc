#include "services/cli/ground/answer_output.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/image/image.h"

namespace chord::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

v1::GroundResponse Answer(bool object, v1::FinishReason reason = v1::FINISH_REASON_STOP) {
  v1::GroundResponse out;
  if (object) {
    v1::Object& cup = *out.add_objects();
    cup.set_label("cup");
    cup.set_confidence(0.5);
    cup.mutable_box()->set_x2(3);
    cup.mutable_box()->set_y2(4);
  }
  out.set_confidence(0.25);
  out.set_finish_reason(reason);
  return out;
}

TEST(AnswerText, ListsObjectsOrSaysThatTheThingIsNotThere) {
  EXPECT_EQ(AnswerText(Answer(true)), "0 0 3 4  0.50  cup\n");
  EXPECT_EQ(AnswerText(Answer(false)), "not there (confidence 0.25)\n");
}

TEST(AnswerText, ACutAnswerIsNeverCalledAbsence) {
  for (const bool object : {false, true}) {
    const std::string text = AnswerText(Answer(object, v1::FINISH_REASON_LENGTH));
    EXPECT_THAT(text, HasSubstr("max_new_tokens"));
    EXPECT_THAT(text, Not(HasSubstr("not there")));
  }
  EXPECT_TRUE(IsTruncated(Answer(true, v1::FINISH_REASON_LENGTH)));
  EXPECT_FALSE(IsTruncated(Answer(true)));
}

TEST(ErrorJson, HoldsReasonAndText) {
  const auto json = nlohmann::json::parse(ErrorJson(errors::PromptEmpty(), -1));
  EXPECT_EQ(json["error"]["code"], "PROMPT_EMPTY");
  EXPECT_FALSE(json["error"]["detail"].get<std::string>().empty());
}

TEST(WithFileName, PutsTheFileFirst) {
  EXPECT_EQ(WithFileName("a.png", R"({"boxes": []})"), R"({"file":"a.png","boxes":[]})");
}

TEST(WriteAnnotated, TheNameChoosesTheFormat) {
  image::RgbImage gray{64, 48, std::vector<uint8_t>(3 * 64 * 48, 128)};
  const auto png = image::EncodePng(gray);
  ASSERT_TRUE(png.ok());
  const absl::string_view bytes(reinterpret_cast<const char*>(png->data()), png->size());
  const auto dir = std::filesystem::path(testing::TempDir());
  const std::pair<const char*, image::Format> cases[] = {{"out.jpg", image::Format::kJpeg},
                                                         {"out.JPEG", image::Format::kJpeg},
                                                         {"out.png", image::Format::kPng},
                                                         {"out", image::Format::kPng}};
  for (const auto& [name, format] : cases) {
    const std::string path = (dir / absl::StrCat("annotated_", name)).string();
    ASSERT_TRUE(WriteAnnotated(bytes, Answer(true), path).ok()) << name;
    std::ifstream file(path, std::ios::binary);
    const std::string written((std::istreambuf_iterator<char>(file)), {});
    const auto sniffed = image::Sniff(written);
    ASSERT_TRUE(sniffed.ok()) << name;
    EXPECT_EQ(*sniffed, format) << name;
    EXPECT_TRUE(image::Decode(written, {}).ok()) << name;
    std::filesystem::remove(path);
  }
}

}  // namespace
}  // namespace chord::cli
