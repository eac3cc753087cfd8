#include "common/text/utf8.h"

#include <gtest/gtest.h>

namespace chord::text {
namespace {

TEST(Utf8Test, FollowsTable37OfTheUnicodeStandard) {
  for (const char* good :
       {"", "a", "é", "白", "😀", "\U0010FFFF", "\xEF\xBF\xBF", "e\u0301\u202E"}) {
    EXPECT_TRUE(IsUtf8(good)) << good;
  }
  for (const char* bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xC3", "\xE0\x80\x80", "\xE0\x9F\xBF",
                          "\xED\xA0\x80", "\xED\xBF\xBF", "\xF0\x80\x80\x80", "\xF4\x90\x80\x80",
                          "\xF5\x80\x80\x80", "\xFF", "a\xE7\x99"}) {
    EXPECT_FALSE(IsUtf8(bad));
  }
}

TEST(Utf8Test, KnowsTheEdges) {
  for (const char* good :
       {"", "a", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
        "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(IsUtf8(good)) << good;
  }
  for (const char* bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xC2", "\xE0\x9F\xBF", "\xE0\xA0",
                          "\xED\xA0\x80", "\xED\xBF\xBF", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80",
                          "\xF5\x80\x80\x80", "\xFF", "a\xC2z"}) {
    EXPECT_FALSE(IsUtf8(bad)) << bad;
  }
}

TEST(Utf8Test, CutsBetweenCharacters) {
  EXPECT_EQ(CutUtf8("abc", 3), "abc");
  EXPECT_EQ(CutUtf8("abcd", 3), "abc");
  EXPECT_EQ(CutUtf8("a白白", 6), "a白");
  EXPECT_EQ(CutUtf8("a白白", 7), "a白白");
  EXPECT_EQ(CutUtf8("白", 2), "");
}

}  // namespace
}  // namespace chord::text
