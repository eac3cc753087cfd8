#include "services/llm_worker/grammar/box_grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "common/base/errors.h"
#include "tests/services/llm_worker/grammar/replay.h"
#include "tests/services/llm_worker/grammar/vocabularies.h"

namespace chord::grammar {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr double kNever = -std::numeric_limits<double>::infinity();

struct Model {
  const model::Tokenizer& tokenizer;
  int vocabulary;
  int32_t eos;
  std::shared_ptr<const BoxGrammar> grammar;

  Model(const model::Tokenizer& t, int n, const std::vector<int32_t>& end)
      : tokenizer(t), vocabulary(n), eos(end[0]), grammar(*BoxGrammar::Compile(t, n, end)) {}
  BoxCursor Start(const BoxRequest& prompt = {448, 336, "find the red apple"}) const {
    return BoxCursor(grammar.get(), prompt);
  }
  BoxCursor After(const std::string& text,
                  const BoxRequest& prompt = {448, 336, "find the red apple"}) const {
    BoxCursor cursor = Start(prompt);
    for (const int32_t id : tokenizer.EncodeText(text)) cursor.Accept(id);
    return cursor;
  }
  int32_t Id(absl::string_view bytes) const {
    for (int32_t id = 0; id < tokenizer.size(); ++id) {
      if (tokenizer.TokenBytes(id) == bytes) return id;
    }
    ADD_FAILURE() << "no token " << bytes;
    return -1;
  }
  bool Allows(BoxCursor& cursor, absl::string_view bytes) const {
    const auto sets = cursor.Sets();
    return sets->allowed.empty() || Contains(sets->allowed, Id(bytes));
  }
  std::string Text(const std::vector<int32_t>& ids) const {
    std::string text;
    for (const int32_t id : ids) absl::StrAppend(&text, tokenizer.TokenBytes(id));
    return text;
  }
  std::string JumpForward(const BoxCursor& cursor) const { return Text(cursor.JumpForward()); }
  std::string Draft(const BoxCursor& cursor) const { return Text(cursor.Draft()); }
};

const Model& OfNano() {
  static const Model* const kModel = new Model(Nano(), kNanoVocabulary, NanoEos());
  return *kModel;
}
const Model* OfQwen() {
  static const Model* const kModel =
      Qwen() == nullptr ? nullptr : new Model(*Qwen(), kQwenVocabulary, QwenEos());
  return kModel;
}
const Model& OfMerged() {
  static const Model* const kModel = new Model(Merged(), kMergedVocabulary, NanoEos());
  return *kModel;
}

TEST(BoxGrammarTest, LeavesFreeTextAlone) {
  for (const char* text :
       {"", "The apple", " \n", "```", "```json\n", "```python\n[", "There is [1]",
        "<box>(1,2),(3,4)</box>", "                 [", "\"[", "[1"}) {
    BoxCursor cursor = OfNano().After(text);
    EXPECT_FALSE(cursor.inside()) << text;
    EXPECT_FALSE(cursor.complete()) << text;
    EXPECT_THAT(cursor.Sets()->allowed, IsEmpty()) << text;
    EXPECT_THAT(cursor.JumpForward(), IsEmpty()) << text;
  }
}

TEST(BoxGrammarTest, BeginsWithTheFirstBracket) {
  for (const char* text :
       {"[", "\n[", "```json\n[", "```\n[", "```[", "{", "```json\n{\"", "[{\""}) {
    BoxCursor cursor = OfNano().After(text);
    EXPECT_TRUE(cursor.inside()) << text;
    EXPECT_FALSE(cursor.complete()) << text;
    EXPECT_THAT(cursor.Sets()->allowed.size(), kNanoVocabulary / 64) << text;
  }
}

TEST(BoxGrammarTest, IsLeftByAnIdThatIsNotAllowed) {
  BoxCursor cursor = OfNano().After("[{\"");
  cursor.Accept(OfNano().Id("a"));
  EXPECT_FALSE(cursor.inside());
  cursor = OfNano().After("[{\"");
  cursor.Accept(OfNano().eos);
  EXPECT_FALSE(cursor.inside());
  for (const int32_t id : {-1, 4095, 5'000'000}) {
    cursor = OfNano().After("[");
    cursor.Accept(id);
    EXPECT_FALSE(cursor.inside()) << id;
  }
}

TEST(BoxGrammarTest, AllowsEndTokensOnlyWhenTheAnswerIsWhole) {
  const Model& m = OfNano();
  const auto may_end = [&](const std::string& text) {
    BoxCursor cursor = m.After(text);
    const TokenSet mask = cursor.Sets()->allowed;
    const auto id = static_cast<size_t>(m.eos);
    const bool in_mask = (mask[id / 64] >> (id % 64) & 1) != 0;
    EXPECT_EQ(in_mask, cursor.may_end()) << text;
    return in_mask;
  };
  EXPECT_TRUE(may_end("[]"));
  EXPECT_TRUE(may_end("```json\n[]\n```"));
  EXPECT_FALSE(may_end("["));
  EXPECT_FALSE(may_end("```json\n[]\n"));
  BoxCursor cursor = m.After("[]");
  EXPECT_TRUE(cursor.complete());
  cursor.Accept(m.eos);
  EXPECT_TRUE(cursor.complete());
  EXPECT_THAT(cursor.Draft(), IsEmpty());
}

TEST(BoxGrammarTest, NeverAllowsSpecialTokensOrPadding) {
  for (const char* text : {"[", "[{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"", "[]"}) {
    BoxCursor cursor = OfNano().After(text);
    const TokenSet mask = cursor.Sets()->allowed;
    for (size_t id = 4082; id < 4096; ++id) {
      const bool end = (id == 4082 || id == 4084) && cursor.may_end();
      EXPECT_EQ((mask[id / 64] >> (id % 64) & 1) != 0, end) << text << id;
    }
  }
}

TEST(BoxGrammarTest, MasksTokensOfSeveralDigitsByTheBounds) {
  const Model& m = OfMerged();
  BoxCursor cursor = m.After("[{\"bbox_2d\": [");
  EXPECT_TRUE(m.Allows(cursor, "12"));
  EXPECT_TRUE(m.Allows(cursor, "1,"));
  EXPECT_TRUE(m.Allows(cursor, "0, "));
  for (const char* token : {"00", "007", "448", "1234", "99999999999", "1]", "12], \""}) {
    EXPECT_FALSE(m.Allows(cursor, token)) << token;
  }
  cursor = m.After("[{\"bbox_2d\": [12, 2, ");
  EXPECT_TRUE(m.Allows(cursor, "448"));
  EXPECT_TRUE(m.Allows(cursor, "12"));  // 120 to 129
  EXPECT_FALSE(m.Allows(cursor, "1,"));
  EXPECT_FALSE(m.Allows(cursor, "0, "));
  cursor = m.After("[{\"bbox_2d\": [12, 2, 12");
  EXPECT_FALSE(m.Allows(cursor, ","));
  cursor = m.After("[{\"bbox_2d\": [1, 2, 3, ");
  EXPECT_TRUE(m.Allows(cursor, "12], \""));
  cursor = m.After("[{\"bbox_2d\": [1, 20, 3, ");
  EXPECT_FALSE(m.Allows(cursor, "12], \""));
}

TEST(BoxGrammarTest, ChecksTheBoundsOfTokensThatReachFromALabelIntoANumber) {
  const Model& m = OfMerged();
  const std::string text = "[{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"a";
  const std::string token = "\"}, {\"bbox_2d\": [12, 3";
  BoxCursor wide = m.After(text, {448, 336, ""});
  EXPECT_TRUE(m.Allows(wide, token));
  BoxCursor narrow = m.After(text, {12, 336, ""});
  EXPECT_FALSE(m.Allows(narrow, token));
}

TEST(BoxGrammarTest, JumpsOverNoBlanksThatTheAnswerHasNotShown) {
  const Model& m = OfNano();
  EXPECT_EQ(m.JumpForward(m.After("[")), "");
  EXPECT_EQ(m.JumpForward(m.After("[{\"")), "");  // either key
  EXPECT_EQ(m.JumpForward(m.After("[{\"bbox_2d\": [447")), "");
  EXPECT_EQ(m.JumpForward(m.After("[{\"bbox_2d\": [447,")), "");
}

TEST(BoxGrammarTest, JumpsForwardInTheStyleOfTheFirstObject) {
  const Model& m = OfNano();
  const std::string first = "[{\"bbox_2d\": [31, 102, 118, 190], \"label\": \"red apple\"}";
  EXPECT_EQ(m.JumpForward(m.After(first)), "");  // the list may end
  EXPECT_EQ(
      m.JumpForward(m.After(first + ", {\"bbox_2d\": [31, 102, 118, 190], \"label\": \"x\"},")),
      " {\"bbox_2d\": [");
  const std::string second = first + ", {\"bbox_2d\": [331, 310, 400, ";
  EXPECT_EQ(m.JumpForward(m.After(first + ", {\"bbox_2d\": [331")), ", ");
  EXPECT_EQ(m.JumpForward(m.After(first + ", {\"bbox_2d\": [33")), "");
  // Not the quote: a label that begins with ":" would be written with the token '":'.
  EXPECT_EQ(m.JumpForward(m.After(second + "330")), "], \"label\":");
  EXPECT_EQ(m.JumpForward(m.After(second + "330], \"label\": \"red apple")), "");
  EXPECT_EQ(m.JumpForward(m.After(second + "330], \"label\": \"red apple\"}")), "");
  const std::string tight = "[{\"bbox_2d\":[31,102,118,190],\"label\":\"a\"},{\"bbox_2d\":[331";
  EXPECT_EQ(m.JumpForward(m.After(tight)), ",");
}

TEST(BoxGrammarTest, StopsJumpingForwardWhereTheStyleChanges) {
  const Model& m = OfNano();
  const std::string text =
      "[{\"bbox_2d\": [31, 102, 118, 190], \"label\": \"a\"}, {\"bbox_2d\": [31,102, 118, 190], "
      "\"label\": \"b\"}, {\"bbox_2d\": [331, ";
  EXPECT_EQ(m.JumpForward(m.After(text + "331")), ", ");
  BoxCursor cursor = m.After(text.substr(0, text.size() - 1));
  EXPECT_EQ(m.JumpForward(cursor), "");
}

TEST(BoxGrammarTest, DoesNotJumpForwardAfterATokenisationThatIsNotTheModelsOwn) {
  const Model& m = OfNano();
  const std::string first =
      "[{\"bbox_2d\": [31, 102, 118, 190], \"label\": \"red apple\"}, {\"bbox_2d\": [331, 310, "
      "400, "
      "330";
  BoxCursor cursor = m.After(first);
  cursor.Accept(m.Id("]"));  // its own is "],"
  EXPECT_THAT(cursor.JumpForward(), IsEmpty());
  EXPECT_EQ(m.Draft(cursor).substr(0, 11), ", \"label\": ");
}

TEST(BoxGrammarTest, LeavesOutATokenThatCouldGrow) {
  if (OfQwen() == nullptr) GTEST_SKIP() << "no Qwen tokenizer";
  const Model& m = *OfQwen();
  const std::string text =
      "[{\"bbox_2d\": [31, 102, 118, 190], \"label\": \"a\"}, {\"bbox_2d\": [331, 310, 400, 330";
  // A label that begins with "(" would be written with the token ' "('.
  EXPECT_EQ(m.JumpForward(m.After(text)), "], \"label\":");
  EXPECT_EQ(m.Draft(m.After(text + "], \"label\":")).substr(0, 3), " \"a");
}

TEST(BoxGrammarTest, DraftsTheFormInBothTrainedStyles) {
  const Model& m = OfNano();
  EXPECT_EQ(m.Draft(m.After("[{\"")), "bbox_2d\": [");
  EXPECT_EQ(m.Draft(m.After("```")), "json\n[\n\t{\"bbox_2d\": [");
  EXPECT_EQ(m.Draft(m.After("```json\n[")), "\n\t{\"bbox_2d\": [");
  EXPECT_EQ(m.Draft(m.After("[{\"bbox_2d\": [331")), ", ");
  EXPECT_EQ(m.Draft(m.After("[{\"bbox_2d\": [31, 102, 118, 190")), "], \"label\": \"red apple\"}]");
  EXPECT_EQ(m.Draft(m.After("[{\"bbox_2d\": [31, 102, 118, 190], \"label\": \"red")), " apple\"}]");
  EXPECT_EQ(m.Draft(m.After("```json\n[\n\t{\"bbox_2d\": [31, 102, 118, 190")),
            "], \"label\": \"red apple\"}\n]\n```");
  EXPECT_EQ(m.Draft(m.After("[{\"bbox_2d\": [31, 102, 118, 190", {448, 336, "all cats"})),
            "], \"label\": \"cat\"}, {\"bbox_2d\": [");
  EXPECT_EQ(m.Draft(m.After("[{\"bbox_2d\": [31, 102, 118, 190", {448, 336, "找到红苹果"})),
            "], \"label\": \"红苹果\"}]");
  EXPECT_EQ(m.Draft(m.After("```json\n[\n    {\"bbox_2d\": [1, 2, 331, 300], \"label\": \"x\"},")),
            "\n    {\"bbox_2d\": [");
}

TEST(BoxGrammarTest, DraftsTheOnlyDigitThatFitsAndTheLeadingOneOfTheFarCorner) {
  const Model& m = OfNano();
  EXPECT_EQ(m.Draft(m.After("[{\"bbox_2d\": [400, 310, ")), "4");
  EXPECT_EQ(m.Draft(m.After("[{\"bbox_2d\": [440, 310, ")), "44");
  EXPECT_EQ(m.Draft(m.After("[{\"bbox_2d\": [447, 310, ")), "448, 3");
  EXPECT_THAT(m.After("[{\"bbox_2d\": [447, 310, ").JumpForward(), IsEmpty());  // digits never
}

std::vector<std::string> Answers() {
  std::vector<std::string> answers = {
      "[]",
      "[ ]",
      "```json\n[]\n```",
      "[{\"bbox_2d\": [0, 0, 448, 336], \"label\": \"\"}]",
      "[{\"bbox_2d\":[0,0,448,336],\"label\":\"(a\"},{\"bbox_2d\":[0,0,448,336],\"label\":\"}{\"}]",
      "{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"x\"}",
      "```json\n{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"x\"}\n```",
      "```json\n[\n    {\"bbox_2d\": [1, 2, 3, 4], \"label\": \"x\"},\n    {\"bbox_2d\": [1, 2, 3, "
      "4], "
      "\"label\": \"y\"}\n]\n```",
      "[\n  {\n    \"bbox_2d\": [1, 2, 3, 4],\n    \"label\": \"x\"\n  },\n  {\n    \"bbox_2d\": "
      "[1, 2, "
      "3, 4],\n    \"label\": \"y\"\n  }\n]",
      "[{\"label\": \"x\", \"bbox_2d\": [1, 2, 3, 4]}, {\"label\": \"y\", \"bbox_2d\": [1, 2, 3, "
      "4]}]",
      "[{\"bbox_2d\": [1, 2, 3, 4]}, {\"bbox_2d\": [1, 2, 30, 40]}]",
      "[\n    {\n        \"bbox_2d\": [\n            1,\n            2,\n            30,\n         "
      "   "
      "40\n        ],\n        \"label\": \"x\"\n    }\n]",
      "[{\"bbox_2d\": [1, 2, 3, 4] , \"label\": \"x\"} , {\"bbox_2d\": [1, 2, 30, 40] , \"label\": "
      "\"y\"} ]",
  };
  const char* labels[] = {"red apple",  "红苹果",  "no. 7 bus", "girl's hat", "(left) cat",
                          "a\\\"b",     "\\u00e9", "}, {",      "...",        "\u00e9t\u00e9",
                          "\U0001F34E", " x ",     "1",         "[",          "`"};
  for (const bool lines : {false, true}) {
    for (const char* label : labels) {
      std::string text = lines ? "```json\n[" : "[";
      for (int i = 0; i < 3; ++i) {
        if (i > 0) text += ",";
        text += lines ? "\n\t" : i > 0 ? " " : "";
        absl::StrAppend(&text, "{\"bbox_2d\": [", i * 100, ", ", 7 + i * 99, ", ", 1 + i * 200,
                        ", ", 9 + i * 150, "], \"label\": \"", i == 1 ? "other" : label, "\"}");
      }
      answers.push_back(text + (lines ? "\n]\n```" : "]"));
    }
  }
  return answers;
}

void ReplayAll(const Model& m) {
  for (const std::string& answer : Answers()) {
    for (const char* prompt :
         {"find the red apple", "all cats", "红苹果在哪里？", "find no. 7 bus"}) {
      const Replay replay = RunReplay(*m.grammar, m.tokenizer, {448, 336, prompt}, answer, m.eos);
      EXPECT_EQ(replay.error, "");
    }
  }
}

TEST(BoxGrammarTest, JumpForwardEqualsTheTokenizer) { ReplayAll(OfNano()); }
TEST(BoxGrammarTest, JumpForwardEqualsATokenizerOfMergedTokens) { ReplayAll(OfMerged()); }
TEST(BoxGrammarTest, JumpForwardEqualsTheTokenizerOfQwen) {
  if (OfQwen() == nullptr) GTEST_SKIP() << "no Qwen tokenizer";
  ReplayAll(*OfQwen());
}

// Answers of random styles, labels and sizes; boxes at the image's edges among them.
// Reproducible.
class AnyAnswer {
 public:
  explicit AnyAnswer(unsigned seed) : random_(seed) {}

  BoxRequest PickRequest() {
    static constexpr int kSizes[][2] = {{448, 336}, {28, 28},    {1036, 756}, {12012, 84},
                                        {99, 100},  {28, 23436}, {1, 1}};
    const auto& size = kSizes[random_() % std::size(kSizes)];
    return {size[0], size[1], "find all " + Label()};
  }

  std::string Write(const BoxRequest& q) {
    const bool bare = OneIn(10), label_first = OneIn(5), no_label = OneIn(8);
    const char* fence = OneIn(3) ? Pick({"```json\n", "```\n", "```json ", "```json"}) : nullptr;
    const std::string open = Pick({"", "", " ", "\n\t", "\n    ", "\r\n\t"});
    const std::string inner = Pick({"", "", " ", "\n\t\t", "\n        "});
    const std::string colon = Pick({": ", ": ", ":", " : ", ":\n"});
    const std::string first = Pick({"[", "[", "[ ", "[\n            "});
    const std::string comma = Pick({", ", ", ", ",", " , ", ",\n            "});
    const std::string pair = inner.empty() ? Pick({", ", ","}) : "," + inner;
    const std::string next = Pick({", ", ",", ",\n\t", ",\n    "});
    const std::string last = Pick({"]", "]", "\n]", " ]"});
    const std::string end = OneIn(5) ? " ]" : "]";
    const std::string usual = Label();
    std::string out = fence != nullptr ? fence : Pick({"", "", " ", "\n"});
    if (!bare) out += "[";
    const unsigned boxes = bare ? 1 : random_() % 4;
    for (unsigned i = 0; i < boxes; ++i) {
      if (!bare) out += i > 0 ? next : open;
      int low[2], high[2];
      for (int axis : {0, 1}) {
        const int side = axis == 0 ? q.width : q.height;
        low[axis] = OneIn(4) ? side - 1 : Below(side);
        high[axis] = OneIn(4) ? side : low[axis] + 1 + Below(side - low[axis]);
      }
      const std::string box = absl::StrCat("\"bbox_2d\"", colon, first, low[0], comma, low[1],
                                           comma, high[0], comma, high[1], end);
      const std::string label =
          absl::StrCat("\"label\"", colon, "\"", OneIn(3) ? Label() : usual, "\"");
      absl::StrAppend(&out, "{", inner,
                      no_label      ? box
                      : label_first ? label + pair + box
                                    : box + pair + label,
                      inner.empty() ? "" : open, "}");
    }
    if (!bare) out += boxes > 0 ? last : "]";
    if (fence != nullptr) out += Pick({"\n```", "```"});
    return out;
  }

 private:
  std::string Label() {
    static constexpr const char* kParts[] = {"cat",
                                             "red apple",
                                             "Cat",
                                             "\u732b",
                                             "\u7ea2\u82f9\u679c",
                                             "7",
                                             "42",
                                             "\u0663",
                                             "\uff13",
                                             "\u00bd",
                                             "  ",
                                             "\\\"",
                                             "\\\\",
                                             "\\n",
                                             "\\u00e9",
                                             "\\ud83c\\udf4e ",
                                             "\\/",
                                             "'s",
                                             "\u2019s",
                                             "(",
                                             ")",
                                             "[",
                                             "]",
                                             "{",
                                             "}",
                                             "},",
                                             "}]",
                                             "\\\"},",
                                             ", ",
                                             "...",
                                             ": ",
                                             "`",
                                             "```",
                                             "<box>",
                                             "<|im_end|>",
                                             "\u00e9t\u00e9",
                                             "\U0001F34E",
                                             "\u200d",
                                             "\u00a0",
                                             "\u3000",
                                             "\u2014",
                                             "\u201c",
                                             "\u3002",
                                             "\ud55c\uad6d",
                                             "\u0e44\u0e17\u0e22",
                                             "-",
                                             "_",
                                             "%",
                                             "label",
                                             "bbox_2d",
                                             "json"};
    std::string out;
    for (unsigned n = random_() % 6; n > 0; --n) {
      absl::StrAppend(&out, kParts[random_() % std::size(kParts)], OneIn(5) ? " " : "");
    }
    return out;
  }
  int Below(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  bool OneIn(unsigned n) { return random_() % n == 0; }
  const char* Pick(std::initializer_list<const char*> of) {
    return of.begin()[random_() % of.size()];
  }
  std::mt19937 random_;
};

TEST(BoxGrammarTest, JumpForwardEqualsTheTokenizerWhateverTheStyle) {
  for (const Model* m : {&OfNano(), &OfMerged(), OfQwen()}) {
    if (m == nullptr) continue;  // no Qwen tokenizer
    AnyAnswer any(7);
    for (int i = 0; i < 400; ++i) {
      const BoxRequest prompt = any.PickRequest();
      const std::string answer = any.Write(prompt);
      const Replay replay = RunReplay(*m->grammar, m->tokenizer, prompt, answer, m->eos);
      ASSERT_EQ(replay.error, "") << i;
    }
  }
}

TEST(BoxGrammarTest, NeedsAboutAStepForEachDigit) {
  const std::string answer =
      "[{\"bbox_2d\": [131, 102, 218, 190], \"label\": \"red apple\"}, {\"bbox_2d\": [231, 112, "
      "358, "
      "299], \"label\": \"red apple\"}, {\"bbox_2d\": [301, 212, 418, 330], \"label\": \"red "
      "apple\"}]";
  const Replay replay =
      RunReplay(*OfNano().grammar, Nano(), {448, 336, "all red apples"}, answer, OfNano().eos);
  EXPECT_EQ(replay.error, "");
  EXPECT_GT(replay.tokens, 90);
  EXPECT_LE(replay.passes, 3 * 12 + 2);
}

TEST(BoxGrammarTest, ReportsTheChoiceOfTheListFromRawLogits) {
  const Model& m = OfNano();
  std::vector<float> logits(kNanoVocabulary, -50);
  const auto set = [&](absl::string_view token, float v) {
    logits[static_cast<size_t>(m.Id(token))] = v;
  };
  // The first token may decide at once.
  set("[]", 1);
  set("[{\"", 2);
  auto choice = ListChoiceOf(m.Start(), logits);
  ASSERT_TRUE(choice.has_value());
  const double all = std::log(std::exp(1.0) + std::exp(2.0));
  EXPECT_NEAR(choice->log_close, 1 - all, 1e-5);
  EXPECT_NEAR(choice->log_more, 2 - all, 1e-5);
  // Free text, and a bracket alone, decide nothing.
  set("a", 5);
  EXPECT_FALSE(ListChoiceOf(m.Start(), logits).has_value());
  set("a", -50);
  set("[", 5);
  EXPECT_FALSE(ListChoiceOf(m.Start(), logits).has_value());
  // What the mask forbids still counts for the probabilities: they are taken before it.
  set("[", -50);
  set("a", 3);
  set("{\"", 2);
  set("]", 1);
  choice = ListChoiceOf(m.After("["), logits);
  ASSERT_TRUE(choice.has_value());
  EXPECT_NEAR(choice->log_close,
              1 - std::log(std::exp(1.0) + 2 * std::exp(2.0) + std::exp(1.0) + std::exp(3.0)),
              1e-5);
}

TEST(BoxGrammarTest, ReportsTheChoiceOnceWhereATokenCrossesIt) {
  const Model& m = OfNano();
  const std::string label = "[{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"red";
  std::vector<float> logits(kNanoVocabulary, -50);
  const auto set = [&](absl::string_view token, float v) {
    logits[static_cast<size_t>(m.Id(token))] = v;
  };
  set(" apple", 4);
  set("\"}]", 1);
  set("\"},", 2);
  BoxCursor cursor = m.After(label);
  EXPECT_FALSE(ListChoiceOf(cursor, logits).has_value());  // the label goes on
  EXPECT_TRUE(ListChoiceOf(cursor, logits, m.Id("\"},")).has_value());
  set(" apple", -50);
  const auto choice = ListChoiceOf(cursor, logits);
  ASSERT_TRUE(choice.has_value());
  const double all = std::log(std::exp(1.0) + std::exp(2.0));
  EXPECT_NEAR(choice->log_close, 1 - all, 1e-5);
  EXPECT_NEAR(choice->log_more, 2 - all, 1e-5);
  EXPECT_EQ(choice->offset, label.size() + 2) << "behind the brace";
  cursor.Accept(m.Id("\"},"));
  set("\"},", -50);
  set(" {\"", 3);
  EXPECT_FALSE(ListChoiceOf(cursor, logits).has_value());
  // By a token that leaves it open, the choice comes after it.
  cursor = m.After(label);
  set("\"}", 5);
  EXPECT_FALSE(ListChoiceOf(cursor, logits).has_value());
  cursor.Accept(m.Id("\"}"));
  set("]", 6);
  ASSERT_TRUE(ListChoiceOf(cursor, logits).has_value());
  EXPECT_GT(ListChoiceOf(cursor, logits)->log_close, -0.5);
  EXPECT_EQ(ListChoiceOf(cursor, logits)->offset, label.size() + 2);
  EXPECT_FALSE(ListChoiceOf(m.After("[]"), logits).has_value());
}

TEST(BoxGrammarTest, CountsTokensOfEachSideWhereverTheyCross) {
  const Model& m = OfMerged();
  const auto sides = [&](const std::string& text, absl::string_view token) {
    std::vector<float> logits(kMergedVocabulary, -1000);
    logits[static_cast<size_t>(m.Id(token))] = 10;
    return ListChoiceOf(m.After(text), logits);
  };
  const std::string inside = "[{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"red";
  const std::string after = inside + "\"";
  struct Case {
    std::string text, token;
    bool more;
  };
  for (const Case& c : std::initializer_list<Case>{{"", "[]\n", false},
                                                   {"", "[{\"bbox_2", true},
                                                   {"", "[\n", true},
                                                   {"", "[ ", true},
                                                   {"", "{\"", true},
                                                   {"[", "{\"l", true},
                                                   {inside, "\"}, {\"", true},
                                                   {inside, "a\"}]", false},
                                                   {inside, "\"}]\n```", false},
                                                   {after, "},", true},
                                                   {after, "}]", false},
                                                   {after, "}\n]", false},
                                                   {after, "}, {", true}}) {
    if (c.text.empty() || c.token != "\"}]\n```") {
      const auto choice = sides(c.text, c.token);
      ASSERT_TRUE(choice.has_value()) << c.text << " + " << c.token;
      EXPECT_NEAR(c.more ? choice->log_more : choice->log_close, 0, 1e-6) << c.text << c.token;
      EXPECT_LT(c.more ? choice->log_close : choice->log_more, -900) << c.text << c.token;
    } else {  // no fence was opened: not allowed, and so not the best of what is
      EXPECT_FALSE(m.After(c.text).DecisionOffset(m.Id(c.token)).has_value());
    }
  }
}

TEST(BoxGrammarTest, ClosesATruncatedAnswerAfterItsLastBoxWithFourNumbers) {
  const Model& m = OfNano();
  const std::string one = "[{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"a\"}";
  const std::string two = one + ", {\"bbox_2d\": [1, 2, 30, 40]";
  const std::string lines = "```json\n[\n\t{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"a\"}";
  struct Case {
    std::string text, closed;
  };
  for (const Case& c : std::initializer_list<Case>{
           {one, one + "]"},
           {one + ",", one + "]"},
           {one + ", " + one.substr(1) + ", {", one + ", " + one.substr(1) + "]"},
           {one + ", {\"bbox_2d\": [1, 2, 30, 40", one + "]"},
           {lines + ",\n\t{\"bbox_2d\": [1", lines + "\n]\n```"},
           // A box whose four numbers are there counts, with its label as far as it was written.
           {two, two + "}]"},
           {two + ", \"lab", two + "}]"},
           {two + ", \"label\": \"", two + "}]"},
           {two + ", \"label\": \"unfin", two + ", \"label\": \"unfin\"}]"},
           {two + ", \"label\": \"a\\\"", two + ", \"label\": \"a\\\"\"}]"},
           {two + ", \"label\": \"a\\", two + ", \"label\": \"a\"}]"},
           {two + ", \"label\": \"a\\u00", two + ", \"label\": \"a\"}]"},
           {two + ", \"label\": \"done\"", two + ", \"label\": \"done\"}]"},
           {"[{\"bbox_2d\": [1, 2, 3, 4]", "[{\"bbox_2d\": [1, 2, 3, 4]}]"},
           {"[{\"label\": \"a\", \"bbox_2d\": [1, 2, 3, 4]",
            "[{\"label\": \"a\", \"bbox_2d\": [1, 2, 3, 4]}]"},
           {"{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"re",
            "{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"re\"}"},
           {"```json\n[\n\t{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"re",
            "```json\n[\n\t{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"re\"}\n]\n```"},
           // Only the fence is missing.
           {"```json\n[]", "```json\n[]\n```"},
           {lines + "\n]\n", lines + "\n]\n```"},
           {lines + "\n]\n``", lines + "\n]\n```"},
       }) {
    const BoxCursor cursor = m.After(c.text);
    ASSERT_TRUE(cursor.inside() && !cursor.may_end()) << c.text;
    const auto closing = cursor.CloseTruncated();
    ASSERT_TRUE(closing.has_value()) << c.text;
    EXPECT_EQ(c.text.substr(0, closing->keep_bytes) + closing->text, c.closed) << c.text;
  }
}

TEST(BoxGrammarTest, ALabelIsCutBetweenCharacters) {
  const Model& m = OfNano();
  const std::string box = "[{\"bbox_2d\": [1, 2, 3, 4]";
  BoxCursor cursor = m.After(box + ", \"label\": \"\u7EA2");
  cursor.Accept(m.Id("\xE8"));  // the first byte of a character
  const auto closing = cursor.CloseTruncated();
  ASSERT_TRUE(closing.has_value());
  EXPECT_EQ(closing->keep_bytes, (box + ", \"label\": \"\u7EA2").size());
  EXPECT_EQ(closing->text, "\"}]");
  cursor = m.After(box + ", \"label\": \"");
  cursor.Accept(m.Id("\xE8"));
  EXPECT_EQ(cursor.CloseTruncated()->keep_bytes, box.size()) << "a label without a character";
}

TEST(BoxGrammarTest, NeverClosesAnEmptyListInTheModelsName) {
  const Model& m = OfNano();
  for (const char* text :
       {"[", "\n[{\"bbox_2d\": [1, 2, 3", "```json\n[\n\t{\"bb", "{\"bbox_2d\": [1, 2",
        "```json\n{\"bbox_2d\": [1, 2", "[{\"label\": \"red app", "[]", "There is"}) {
    EXPECT_FALSE(m.After(text).CloseTruncated().has_value()) << text;
  }
}

TEST(BoxGrammarTest, EndsALabelAtItsLimit) {
  const Model& m = OfNano();
  BoxCursor cursor = m.After("[{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"");
  const int32_t x = m.Id("x");
  for (int i = 0; i < 128; ++i) {
    ASSERT_TRUE(m.Allows(cursor, "x")) << i;
    cursor.Accept(x);
  }
  EXPECT_FALSE(m.Allows(cursor, "x"));
  EXPECT_FALSE(m.Allows(cursor, " "));
  EXPECT_TRUE(m.Allows(cursor, "\""));
  EXPECT_TRUE(m.Allows(cursor, "\"}]"));
  EXPECT_TRUE(cursor.inside());
}

TEST(BoxGrammarTest, RefusesAVocabularyThatCannotBeTheModels) {
  const auto reason = [](int vocabulary, const std::vector<int32_t>& eos) {
    return std::string(BoxGrammar::Compile(Nano(), vocabulary, eos).status().message());
  };
  EXPECT_NE(reason(0, {1}), "");
  EXPECT_NE(reason(-5, {1}), "");
  EXPECT_NE(reason(4096, {}), "");
  EXPECT_NE(reason(4096, {4096}), "");
  EXPECT_NE(reason(4096, {-1}), "");
  EXPECT_NE(reason(100, {1}), "");  // bytes are missing
  EXPECT_EQ(reason(4096, {4084}), "");
  EXPECT_EQ(reason(5001, {4084}), "");  // padding rows, no whole word
}

TEST(BoxGrammarTest, TakesAnEndTokenThatHasBytesOfItsOwnForNothingElse) {
  const Model m(Nano(), kNanoVocabulary, {OfNano().Id(" apple")});
  BoxCursor cursor = m.After("[{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"");
  EXPECT_FALSE(m.Allows(cursor, " apple"));
  EXPECT_TRUE(m.Allows(cursor, "x"));
}

TEST(BoxGrammarTest, ACopyMovesWithoutTheOriginal) {
  const Model& m = OfNano();
  const BoxCursor cursor = m.After("[{\"bbox_2d\": [1, 2, 3");
  BoxCursor copy = cursor;
  for (const int32_t id : m.tokenizer.EncodeText(", 4]")) copy.Accept(id);
  EXPECT_EQ(m.Draft(cursor), m.Draft(m.After("[{\"bbox_2d\": [1, 2, 3")));
  EXPECT_NE(m.Draft(copy), m.Draft(cursor));
}

}  // namespace
}  // namespace chord::grammar
