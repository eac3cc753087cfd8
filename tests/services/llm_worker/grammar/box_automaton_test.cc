#include "services/llm_worker/grammar/box_automaton.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace chord::grammar {
namespace {

// How many bytes of the text the automaton takes in an image of 448 x 336.
size_t Taken(const std::string& text, BoxState* end = nullptr) {
  BoxState s;
  s.side[0] = 448;
  s.side[1] = 336;
  size_t n = 0;
  for (const char c : text) {
    BoxState next = s;
    if (!next.Step(static_cast<uint8_t>(c))) break;
    s = next;
    ++n;
  }
  if (end != nullptr) *end = s;
  return n;
}

bool Whole(const std::string& text) {
  BoxState end;
  return Taken(text, &end) == text.size() && end.may_end();
}

TEST(BoxAutomatonTest, TakesTheAnswersOfTheModels) {
  for (
      const std::string text : {
          R"([{"bbox_2d": [31, 102, 118, 190], "label": "red apple"}])",
          R"([{"bbox_2d": [31, 102, 118, 190], "label": "a"}, {"bbox_2d": [0, 0, 448, 336], "label": ""}])",
          "[]",
          "[ ]",
          "```json\n[]\n```",
          "```\n[]```",
          "```[]\n```\n",
          "```json\n[\n\t{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"a\"},\n\t{\"bbox_2d\": [5, 6, 7, "
          "8], "
          "\"label\": \"b\"}\n]\n```",
          R"({"bbox_2d": [1, 2, 3, 4], "label": "a"})",
          "```json\n{\"bbox_2d\": [1, 2, 3, 4]}\n```",
          "\n [{\"label\": \"a\", \"bbox_2d\": [1,2,3,4]},{\"label\": \"b\", \"bbox_2d\": "
          "[1,2,3,4]}]",
          "[{ \"bbox_2d\" : [ 1 , 2 , 3 , 4 ] , \"label\" : \"x\" } ]",
          R"([{"bbox_2d": [1, 2, 3, 4], "label": "\"\\\/\b\f\n\r\t\u00e9\ud83c\udf4e 红\u0041"}])",
          "[{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"\xF0\x9F\x8D\x8E\xED\x9F\xBF\xEF\xBF\xBF\"}]",
      }) {
    EXPECT_TRUE(Whole(text)) << text << "\ntaken: " << Taken(text);
  }
}

struct Cut {
  std::string taken, then;
};

TEST(BoxAutomatonTest, StopsAtTheFirstByteThatCannotFollow) {
  const std::string box = R"([{"bbox_2d": [1, 2, 3, 4])";
  for (const Cut& cut : std::initializer_list<Cut>{
           {"", "The"},
           {"[", ","},
           {"[", "1"},
           {"[", "["},
           {"[{\"", "x"},
           {"[{\"bbox_2d\": [", "-1"},
           {"[{\"bbox_2d\": [0", "0"},
           {"[{\"bbox_2d\": [1", ".5"},
           {"[{\"bbox_2d\": [44", "8"},                 // x1 < width
           {"[{\"bbox_2d\": [447, 335, 44", "7"},       // x2 > x1
           {"[{\"bbox_2d\": [447, 335, 448, 33", "5"},  // y2 > y1
           {"[{\"bbox_2d\": [100, 2, ", "9"},           // 9 is not above 100, 9xx beyond the width
           {"[{\"bbox_2d\": [1, 2, 3, 4", ","},
           {"[{\"bbox_2d\": [1, 2", "]"},
           {box + "}", "{"},
           {box + "},", "]"},
           {box + "}, {\"bbox_2d\": [1, 2, 3, 4]", ","},  // the first object had no label
           {box + ", \"label\": \"a\"}, {\"bbox_2d\": [1, 2, 3, 4]", "}"},
           {box + ", \"label\": \"a\"}, {\"", "label"},
           {box + ", \"label\": \"a\"", ","},
           {box + ", \"label\": \"", "\n"},
           {box + ", \"label\": \"\\", "x"},
           {box + ", \"label\": \"\\u12", "g"},
           {box + ", \"label\": \"\\ud", "c"},
           {box + ", \"label\": \"\\ud800", "a"},
           {box + ", \"label\": \"\\ud800\\ud", "8"},
           {box + ", \"label\": \"", "\xC0"},
           {box + ", \"label\": \"\xE0", "\x80"},
           {box + ", \"label\": \"\xED", "\xA0"},
           {box + ", \"label\": \"\xF0", "\x80"},
           {box + ", \"label\": \"\xF4", "\x90"},
           {box + ", \"label\": \"\xE7\xBA", "\""},
           {"[]", "`"},
           {"[]", "x"},
           {"```json\n[]\n```", "`"},
           {"[" + std::string(kMaxBlanks, ' '), " "},
       }) {
    const size_t taken = Taken(cut.taken + cut.then);
    EXPECT_LE(cut.taken.size(), taken) << cut.taken << " | " << cut.then;
    EXPECT_LT(taken, cut.taken.size() + cut.then.size()) << cut.taken << " | " << cut.then;
  }
}

TEST(BoxAutomatonTest, NeedsTheClosingFenceWhereOneWasOpened) {
  EXPECT_FALSE(Whole("```json\n[]"));
  EXPECT_FALSE(Whole("```json\n[]\n``"));
  EXPECT_TRUE(Whole("```json\n[]\n```"));
}

TEST(BoxAutomatonTest, TakesExactlyTheNumbersThatFit) {
  for (int x1 = 0; x1 < 460; x1 += 7) {
    for (int x2 = 0; x2 < 1200; ++x2) {
      const std::string text =
          "[{\"bbox_2d\": [" + std::to_string(x1) + ", 0, " + std::to_string(x2) + ",";
      EXPECT_EQ(Taken(text) == text.size(), x1 < 448 && x1 < x2 && x2 <= 448) << text;
    }
  }
}

TEST(BoxAutomatonTest, NeverLeadsIntoANumberThatCannotBeEnded) {
  for (const int side : {1, 2, 9, 10, 11, 99, 100, 101, 448, 1000, 1001, 99'999'999}) {
    for (const int x1 : {0, 1, 5, 9, 10, 98, 99, 100, 444, 446, 998, 999, 1000, 99'999'997}) {
      if (x1 >= side) continue;
      // Every prefix that is taken has an ending: follow the greatest and the least digits.
      for (const bool least : {true, false}) {
        BoxState s;
        s.phase = Phase::kNumberStart;
        s.coordinate = 2;
        s.low[0] = x1;
        s.side[0] = s.side[1] = side;
        for (int steps = 0; steps < 12; ++steps) {
          int digit = -1;
          for (int d = 0; d < 10; ++d) {
            if (s.DigitMayFollow(d) && (digit < 0 || !least)) digit = d;
          }
          if (digit < 0) break;
          ASSERT_TRUE(s.Step(static_cast<uint8_t>('0' + digit)));
        }
        EXPECT_TRUE(s.NumberMayEnd()) << side << " " << x1 << " " << s.value;
      }
    }
  }
}

TEST(BoxAutomatonTest, TakesNoObjectInAnImageWithoutRoom) {
  BoxState s;
  ASSERT_TRUE(s.Step('['));
  BoxState object = s, empty = s;
  EXPECT_FALSE(object.Step('{'));
  EXPECT_TRUE(empty.Step(']'));
}

TEST(BoxAutomatonTest, SaysWhichByteDecides) {
  const auto decision = [](const std::string& text) {
    BoxState end;
    EXPECT_EQ(Taken(text, &end), text.size()) << text;
    return end.decision;
  };
  EXPECT_EQ(decision("["), Decision::kNone);
  EXPECT_EQ(decision("[]"), Decision::kClose);
  EXPECT_EQ(decision("[{"), Decision::kMore);
  EXPECT_EQ(decision("[\n"), Decision::kMore);
  BoxState end;
  Taken(R"([{"bbox_2d": [1, 2, 3, 4], "label": "a"})", &end);
  end.decision = Decision::kNone;
  BoxState close = end, more = end, blank = end;
  EXPECT_TRUE(close.Step(']') && more.Step(',') && blank.Step('\n'));
  EXPECT_EQ(close.decision, Decision::kClose);
  EXPECT_EQ(more.decision, Decision::kMore);
  EXPECT_EQ(blank.decision, Decision::kClose);
  blank.decision = Decision::kNone;  // decided once
  EXPECT_TRUE(blank.Step(']'));
  EXPECT_EQ(blank.decision, Decision::kNone);
}

}  // namespace
}  // namespace chord::grammar
