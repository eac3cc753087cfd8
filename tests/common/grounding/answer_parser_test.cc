#include "common/grounding/answer_parser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace chord::grounding {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// "label(x1,y1,x2,y2)" of every object, one after the other.
std::string Parsed(absl::string_view text) {
  std::string out;
  for (const RawObject& o : ParseAnswer(text).objects) {
    char numbers[160];
    std::snprintf(numbers, sizeof numbers, "(%g,%g,%g,%g)", o.box.x1, o.box.y1, o.box.x2, o.box.y2);
    out += (out.empty() ? "" : " ") + o.label + numbers;
  }
  return out;
}

TEST(ParseAnswerTest, ReadsTheUsualForm) {
  const std::string text =
      "```json\n[\n\t{\"bbox_2d\": [12, 34, 567, 890], \"label\": \"white "
      "vase\"},\n\t{\"bbox_2d\": "
      "[1, 2, 3, 4], \"label\": \"cup\"}\n]\n```";
  const ParsedAnswer parsed = ParseAnswer(text);
  EXPECT_EQ(Parsed(text), "white vase(12,34,567,890) cup(1,2,3,4)");
  EXPECT_FALSE(parsed.truncated);
  EXPECT_FALSE(parsed.explicit_empty);
  const RawObject& vase = parsed.objects[0];
  EXPECT_EQ(text.substr(vase.begin, vase.end - vase.begin),
            "{\"bbox_2d\": [12, 34, 567, 890], \"label\": \"white vase\"}");
  EXPECT_EQ(text.substr(vase.coords_begin, vase.coords_end - vase.coords_begin),
            "12, 34, 567, 890");
}

TEST(ParseAnswerTest, ReadsEveryVariantOfTheSpecification) {
  const std::pair<const char*, const char*> cases[] = {
      // no fence, prose around, single object, several fences
      {R"([{"bbox_2d": [1, 2, 3, 4], "label": "a"}])", "a(1,2,3,4)"},
      {R"([{"bbox_2d": [1, 2, 3, 4], "label": " a b\n"}])", "a b(1,2,3,4)"},
      {R"(Here it is: {"bbox_2d": [1, 2, 3, 4], "label": "a"}. Anything else?)", "a(1,2,3,4)"},
      {R"({"label": "a", "bbox_2d": [1, 2, 3, 4]})", "a(1,2,3,4)"},
      {"```json\n{\"bbox_2d\": [1,2,3,4]}\n```\nand\n```\n[{\"bbox_2d\": [5,6,7,8]}]\n```",
       "(1,2,3,4) (5,6,7,8)"},
      {R"({"bbox_2d": [1,2,3,4]}{"bbox_2d": [5,6,7,8]})", "(1,2,3,4) (5,6,7,8)"},
      {R"({"objects": [{"bbox_2d": [1,2,3,4], "label": "a"}], "count": 1})", "a(1,2,3,4)"},
      // trailing and missing commas
      {R"([{"bbox_2d": [1,2,3,4,], "label": "a",},])", "a(1,2,3,4)"},
      {R"([{"bbox_2d": [1,2,3,4] "label": "a"} {"bbox_2d": [5,6,7,8]}])", "a(1,2,3,4) (5,6,7,8)"},
      // numbers
      {R"({"bbox_2d": ["1", "2", "3.5", "4"]})", "(1,2,3.5,4)"},
      {R"({"bbox_2d": "1, 2, 3, 4"})", "(1,2,3,4)"},
      {R"({"bbox_2d": [1.25, -2e1, +3, .5]})", "(1.25,-20,3,0.5)"},
      {R"({"bbox_2d": [[1, 2], [3, 4]]})", "(1,2,3,4)"},
      {R"({"bbox_2d": [[1,2,3,4],[5,6,7,8]], "label": "a"})", "a(1,2,3,4) a(5,6,7,8)"},
      // quotes and keys
      {R"([{'bbox_2d': [1, 2, 3, 4], 'label': 'the girl's hat'}])", "the girl's hat(1,2,3,4)"},
      {R"([{bbox_2d: [1, 2, 3, 4], label: "a"}])", "a(1,2,3,4)"},
      {R"({"bbox": [1,2,3,4], "name": "a"})", "a(1,2,3,4)"},
      {R"({"box_2d": [1,2,3,4], "label": null})", "(1,2,3,4)"},
      {R"({"Bounding_Box": [1,2,3,4], "category": "a"})", "a(1,2,3,4)"},
      {R"({"bbox_2d": [1,2,3,4], "label": 7})", "7(1,2,3,4)"},
      {R"({"bbox_2d": [1,2,3,4], "attributes": {"color": ["red"]}, "label": "a"})", "a(1,2,3,4)"},
      // a forgotten bracket
      {R"([{"bbox_2d": [1,2,3,4], "label": "a"])", "a(1,2,3,4)"},
      {R"([{"bbox_2d": [1,2,3,4}, {"bbox_2d": [5,6,7,8]}])", "(1,2,3,4) (5,6,7,8)"},
      // tags
      {"<box>(1,2),(3,4)</box>", "(1,2,3,4)"},
      {"<ref>a b</ref><box>(1,2),(3,4)</box>", "a b(1,2,3,4)"},
      {"<ref>a</ref><box>(1,2),(3,4)</box><box>(5,6),(7,8)</box>", "a(1,2,3,4) a(5,6,7,8)"},
      {"<ref>a</ref> is at <box>(1,2),(3,4)</box>", "(1,2,3,4)"},
      {"<|object_ref_start|>a<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>", "a(1,2,3,4)"},
      {"<box> ( 1 , 2 ) , ( 3.5 , 4 ) </box>", "(1,2,3.5,4)"},
      {"<box>[1, 2, 3, 4]</box>", "(1,2,3,4)"},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(Parsed(text), expected) << text;
}

TEST(ParseAnswerTest, LabelsMayHoldAnything) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"bbox_2d": [1,2,3,4], "label": "a } ] { [ , : b"})", "a } ] { [ , : b(1,2,3,4)"},
      {R"({"bbox_2d": [1,2,3,4], "label": "say \"hi\", \\ \/ \n!"})",
       "say \"hi\", \\ / \n!(1,2,3,4)"},
      {R"({"bbox_2d": [1,2,3,4], "label": "\u767d\u8272 \ud83d\ude00 \ud83d \udc00x"})",
       "白色 😀 \uFFFD \uFFFDx(1,2,3,4)"},
      {R"({"bbox_2d": [1,2,3,4], "label": "白色花瓶"})", "白色花瓶(1,2,3,4)"},
      {R"({"bbox_2d": [1,2,3,4], "label": "19" monitor"})", "19\" monitor(1,2,3,4)"},
      {R"({"bbox_2d": [1,2,3,4], "label": "<box>(5,6),(7,8)</box>"})",
       "<box>(5,6),(7,8)</box>(1,2,3,4)"},
      {R"({"bbox_2d": [1,2,3,4], "label": "{\"bbox_2d\": [5,6,7,8]}"})",
       R"({"bbox_2d": [5,6,7,8]}(1,2,3,4))"},
      {R"({"bbox_2d": [1,2,3,4], "label": ""})", "(1,2,3,4)"},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(Parsed(text), expected) << text;
}

TEST(ParseAnswerTest, FindsNoBoxWhereThereIsNone) {
  for (const char* text : {"",
                           "There is no vase in this image.",
                           R"({"point_2d": [12, 34], "label": "a"})",
                           R"({"points": [1, 2, 3, 4]})",
                           R"(<points x1="1" y1="2" alt="a">a</points>)",
                           R"({"bbox_2d": [1, 2, 3], "label": "a"})",
                           R"({"bbox_2d": [1, 2, 3, 4, 5]})",
                           R"({"bbox_2d": [1, 2, 3, "four"]})",
                           R"({"bbox_2d": [1, 2, 3, 1e999]})",
                           R"({"bbox_2d": null})",
                           R"({"bbox_2d": {"x": 1, "y": 2, "w": 3, "h": 4}})",
                           R"({"label": "bbox_2d: 1, 2, 3, 4"})",
                           "[1, 2, 3, 4]",
                           "<box>(1,2)</box>",
                           "<box>one</box>",
                           "<box>(1,2),(3,4)",
                           "{}",
                           "[{}]",
                           "<",
                           "{",
                           "\"",
                           "\\",
                           "[[[["}) {
    EXPECT_THAT(ParseAnswer(text).objects, IsEmpty()) << text;
  }
}

TEST(ParseAnswerTest, TellsAnEmptyListFromSilence) {
  for (const char* text : {"[]", "```json\n[]\n```", "[ ]", "The answer is [].",
                           R"({"objects": []})", R"({"bbox_2d": [], "label": "a"})"}) {
    EXPECT_TRUE(ParseAnswer(text).explicit_empty) << text;
    EXPECT_FALSE(ParseAnswer(text).truncated) << text;
  }
  for (const char* text : {"", "not found", "[", "{}", R"([{"bbox_2d": [1,2,3,4]}, []])"}) {
    EXPECT_FALSE(ParseAnswer(text).explicit_empty) << text;
  }
}

TEST(ParseAnswerTest, RecoversWholeObjectsOfACutText) {
  const std::string text =
      R"([{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [5, 6, 7, 8], "label": "b"}])";
  const size_t first = text.find('}') + 1, second = text.size() - 1;
  for (size_t n = 1; n < text.size(); ++n) {
    const ParsedAnswer parsed = ParseAnswer(text.substr(0, n));
    EXPECT_TRUE(parsed.truncated) << n;
    EXPECT_EQ(parsed.objects.size(), (n >= first ? 1u : 0u) + (n >= second ? 1u : 0u)) << n;
  }
  EXPECT_FALSE(ParseAnswer(text).truncated);
  EXPECT_TRUE(ParseAnswer("<ref>a</ref><box>(1,2),(3").truncated);
  EXPECT_TRUE(ParseAnswer("<box>(1,2),(3,4)</bo").truncated);
  EXPECT_TRUE(ParseAnswer("<box>(1,2),(3,4)</box><ref>the c").truncated);
  EXPECT_FALSE(ParseAnswer("<box>(1,2),(3,4)</box>").truncated);
}

TEST(ParseAnswerTest, GoesOnAfterProseThatLooksLikeJson) {
  EXPECT_EQ(Parsed(R"(I saw [the cat's box] and {two} cups: {"bbox_2d": [1,2,3,4]})"), "(1,2,3,4)");
  EXPECT_EQ(Parsed(R"([see "this" here {"bbox_2d": [1,2,3,4]})"), "(1,2,3,4)");
  EXPECT_EQ(Parsed(R"([{"bbox_2d": [1,2,3,4]}, oops, {"bbox_2d": [5,6,7,8]}])"),
            "(1,2,3,4) (5,6,7,8)");
  EXPECT_EQ(Parsed("['tis {\"bbox_2d\": [1,2,3,4]}"), "(1,2,3,4)");
}

TEST(ParseAnswerTest, DropsExactDuplicatesOnly) {
  EXPECT_EQ(Parsed(R"([{"bbox_2d": [1,2,3,4], "label": "a"}, {"bbox_2d": [1,2,3,4], "label": "b"},
                     {"label": "a", "bbox_2d": [1.0,2,3,4]}, {"bbox_2d": [1,2,3,5], "label": "a"}])"),
            "a(1,2,3,4) b(1,2,3,4) a(1,2,3,5)");
}

TEST(ParseAnswerTest, KeepsNestedBoxesApart) {
  EXPECT_EQ(Parsed(R"({"boxes": [{"bbox_2d": [1,2,3,4], "label": "a"}, {"bbox_2d": [5,6,7,8]}]})"),
            "a(1,2,3,4) (5,6,7,8)");
  EXPECT_EQ(Parsed(R"({"bbox_2d": [1,2,3,4], "parts": [{"bbox_2d": [5,6,7,8]}], "label": "a"})"),
            "a(1,2,3,4) (5,6,7,8)");
}

TEST(ParseAnswerTest, TakesLinearTimeOnHostileText) {
  const auto repeat = [](const std::string& unit) {
    std::string out;
    while (out.size() < (1 << 20)) out += unit;
    return out;
  };
  // Each of these is quadratic in a parser that starts again after a failure. At a mebibyte that
  // would take hours.
  for (const char* unit : {"[",
                           "{",
                           "[[{",
                           "{\"a\":",
                           "{\"bbox_2d\":[",
                           "[\"",
                           "[1,",
                           "{\"a\":\"b\"c",
                           "{'a':\"b\"x",
                           "<box>(1,2),",
                           "<ref>",
                           "<ref></ref>",
                           "<|box_start|>(",
                           "\\",
                           "[\"\\",
                           "{a",
                           "[-",
                           "[1e",
                           "[{}",
                           "{\"bbox_2d\":[[],",
                           "{\"label\":\"",
                           "<box>1111111111",
                           "[x"}) {
    const std::string text = repeat(unit);
    const ParsedAnswer parsed = ParseAnswer(text);
    EXPECT_THAT(parsed.objects, IsEmpty()) << unit;
  }
  const std::string copies = repeat(R"({"bbox_2d":[1,2,3,4]},)");
  const ParsedAnswer parsed = ParseAnswer(copies);
  EXPECT_EQ(parsed.objects.size(), 1u);
  EXPECT_EQ(RenderText(copies, parsed, {{{{1, 2, 3, 4}}}}), "<box>(1,2),(3,4)</box>");
}

std::string Rendered(const std::string& text, std::vector<std::optional<image::Box>> boxes) {
  return RenderText(text, ParseAnswer(text), boxes);
}

TEST(RenderTextTest, ReplacesJsonByLabelsAndBoxes) {
  EXPECT_EQ(Rendered("```json\n[\n\t{\"bbox_2d\": [1, 2, 3, 4], \"label\": \"white vase\"}\n]\n```",
                     {{{10, 20, 30, 40}}}),
            "white vase <box>(10,20),(30,40)</box>");
  EXPECT_EQ(Rendered(R"([{"bbox_2d": [1,2,3,4], "label": "a"}, {"bbox_2d": [5,6,7,8]}])",
                     {{{10, 20, 30, 40}}, {{50, 60, 70, 80}}}),
            "a <box>(10,20),(30,40)</box>, <box>(50,60),(70,80)</box>");
}

TEST(RenderTextTest, KeepsTheWordsAround) {
  EXPECT_EQ(Rendered("Here it is:\n```json\n[{\"bbox_2d\": [1,2,3,4]}]\n```\nGood luck!",
                     {{{10, 20, 30, 40}}}),
            "Here it is:\n<box>(10,20),(30,40)</box>\nGood luck!");
  EXPECT_EQ(Rendered("The cat <box>(1,2),(3,4)</box> sits.", {{{10, 20, 30, 40}}}),
            "The cat <box>(10,20),(30,40)</box> sits.");
  EXPECT_EQ(Rendered("<ref>cat</ref><box>(1,2),(3,4)</box>", {{{10, 20, 30, 40}}}),
            "cat <box>(10,20),(30,40)</box>");
  EXPECT_EQ(Rendered(R"({"objects": [{"bbox_2d": [1,2,3,4], "label": "a"}]})", {{{1, 2, 3, 4}}}),
            "a <box>(1,2),(3,4)</box>");
  EXPECT_EQ(Rendered("There is none.", {}), "There is none.");
  EXPECT_EQ(Rendered("[]", {}), "[]");
}

TEST(RenderTextTest, LeavesNoCoordinateOfTheResizedImage) {
  // A box outside the image, a duplicate, and an object that the end cuts.
  const std::string text =
      R"([{"bbox_2d": [901,2,3,4], "label": "a"}, {"bbox_2d": [902,6,7,8], "label": "b"},
          {"bbox_2d": [902,6,7,8], "label": "b"}, {"bbox_2d": [903, 1)";
  EXPECT_EQ(Rendered(text, {std::nullopt, {{1, 2, 3, 4}}}), "b <box>(1,2),(3,4)</box>");
  EXPECT_EQ(Rendered(text, {{{1, 2, 3, 4}}, std::nullopt}), "a <box>(1,2),(3,4)</box>");
  EXPECT_EQ(Rendered(text, {std::nullopt, std::nullopt}), "");
  EXPECT_EQ(Rendered("a <box>(901,2),(3", {}), "a");
}

}  // namespace
}  // namespace chord::grounding
