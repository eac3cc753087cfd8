#include "services/cli/export/prompt_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "tests/support/has_reason.h"

namespace chord::cli {
namespace {

TEST(PromptListTest, ReadsPromptsWithAndWithoutCategory) {
  const auto list =
      ParsePromptList("\xEF\xBB\xBF# things\nthe white vase\r\n\n cup \t all cups \n所有窗户");
  ASSERT_TRUE(list.ok());
  ASSERT_EQ(list->size(), 3u);
  EXPECT_EQ((*list)[0].prompt, "the white vase");
  EXPECT_EQ((*list)[0].category, "");
  EXPECT_EQ((*list)[1].prompt, "all cups");
  EXPECT_EQ((*list)[1].category, "cup");
  EXPECT_EQ((*list)[2].prompt, "所有窗户");
}

TEST(PromptListTest, RefusesWhatIsNoListAndNamesTheLine) {
  const std::string long_line(70'000, 'x');
  std::string many;
  for (size_t i = 0; i <= kMaxListedPrompts; ++i) absl::StrAppend(&many, "p\n");
  const struct {
    std::string text;
    const char* message;
  } cases[] = {{"", "none"},
               {"# nothing\n\n", "none"},
               {"ok\na\tb\tc", "Line 2 "},
               {"ok\nok\n\xff", "Line 3 "},
               {long_line, "Line 1 "},
               {many, "Line 1001 "}};
  for (const auto& row : cases) {
    const auto list = ParsePromptList(row.text);
    EXPECT_THAT(list.status(), HasReason(Reason::kConfigInvalid));
    EXPECT_THAT(std::string(list.status().message()), testing::HasSubstr(row.message));
  }
}

}  // namespace
}  // namespace chord::cli
