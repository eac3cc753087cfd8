#include "common/text/unicode.h"

#include <gtest/gtest.h>

#include <string>

namespace chord::text {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";

std::string Replacements(int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += kReplacement;
  return out;
}

TEST(UnicodeTest, ReplacesEachMaximalIllFormedSubpartOnce) {
  EXPECT_EQ(ToValidUtf8("\xE4\xBD"), Replacements(1));
  EXPECT_EQ(ToValidUtf8("\xE4\xBD"
                        "A"),
            Replacements(1) + "A");
  EXPECT_EQ(ToValidUtf8("\xFF\xFE"
                        "A"),
            Replacements(2) + "A");
  EXPECT_EQ(ToValidUtf8("\xF0\x9F\x98"
                        "A"),
            Replacements(1) + "A");
  EXPECT_EQ(ToValidUtf8("\xED\xA0\x80"), Replacements(3));  // a surrogate
  EXPECT_EQ(ToValidUtf8("\xC0\x80"), Replacements(2));      // overlong
  EXPECT_EQ(ToValidUtf8("\xF4\x90\x80\x80"), Replacements(4));
  EXPECT_EQ(ToValidUtf8("\xF4\x8F\xBF\xBF"), "\xF4\x8F\xBF\xBF");
}

TEST(UnicodeTest, TellsAnIncompleteTailFromAnIllFormedOne) {
  EXPECT_EQ(IncompleteTail(""), 0u);
  EXPECT_EQ(IncompleteTail("a"), 0u);
  EXPECT_EQ(IncompleteTail("\xC3"), 1u);
  EXPECT_EQ(IncompleteTail("a\xE4\xBD"), 2u);
  EXPECT_EQ(IncompleteTail("\xF0\x9F\x98"), 3u);
  EXPECT_EQ(IncompleteTail("\xF0\x9F\x98\x80"), 0u);
  EXPECT_EQ(IncompleteTail("\xED\xA0"), 0u);  // can only become a surrogate
  EXPECT_EQ(IncompleteTail("\xC0"), 0u);
  EXPECT_EQ(IncompleteTail("\x80\x80"), 0u);
  EXPECT_EQ(IncompleteTail("\xE4\xBD\xA0\xE5"), 1u);
}

TEST(UnicodeTest, ComposesReordersAndRespectsExclusions) {
  EXPECT_EQ(Nfc("e\u0301"), "\u00E9");
  EXPECT_EQ(Nfc("a\u0301\u0323"), "\u1EA1\u0301");
  EXPECT_EQ(Nfc("\u1112\u1161\u11AB"), "\uD55C");
  EXPECT_EQ(Nfc("\u212A"), "K");
  EXPECT_EQ(Nfc("\u0958"), "\u0915\u093C");  // composition exclusion
  EXPECT_EQ(Nfc(std::string("a\0b\u0301", 5)), std::string("a\0b\u0301", 5));
}

TEST(UnicodeTest, NormalizesAsTheReferenceWithUnicode9) {
  // U+11A7 is no trailing consonant.
  EXPECT_EQ(Nfc("\uD718\u11A7"), "\uD718\u11A7");
  // Marks and compositions that came later are left alone.
  EXPECT_EQ(Nfc("a\u1DFA\u0334"), "a\u1DFA\u0334");
  EXPECT_EQ(Nfc("\U00011935\U00011930"), "\U00011935\U00011930");
  EXPECT_EQ(Nfc("\U00011938"), "\U00011938");
}

TEST(UnicodeTest, KnowsTheLettersAndDigitsOfUnicode16) {
  EXPECT_EQ(ClassOf('a'), CharClass::kLetter);
  EXPECT_EQ(ClassOf(0x4E00), CharClass::kLetter);
  EXPECT_EQ(ClassOf(0x1C89), CharClass::kLetter);
  EXPECT_EQ(ClassOf(0x2EBF0), CharClass::kLetter);
  EXPECT_EQ(ClassOf(0x0664), CharClass::kNumber);
  EXPECT_EQ(ClassOf(0xBD), CharClass::kNumber);
  EXPECT_EQ(ClassOf(0x10D40), CharClass::kNumber);
  EXPECT_EQ(ClassOf(0x301), CharClass::kOther);
  EXPECT_EQ(ClassOf(0x378), CharClass::kOther);
  for (const int c : {0x09, 0x20, 0x85, 0xA0, 0x1680, 0x2028, 0x202F, 0x3000}) {
    EXPECT_EQ(ClassOf(c), CharClass::kSpace) << c;
  }
  EXPECT_EQ(ClassOf(0x200B), CharClass::kOther);
  EXPECT_EQ(ClassOf('\n'), CharClass::kNewline);
}

TEST(UnicodeTest, SortsAFloodOfMarksByClass) {
  std::string flood = "x", below, above;
  for (int i = 0; i < 30000; ++i) {
    flood += "\u0315\u0334";
    below += "\u0334";
    above += "\u0315";
  }
  EXPECT_EQ(Nfc(flood), "x" + below + above);
}

}  // namespace
}  // namespace chord::text
