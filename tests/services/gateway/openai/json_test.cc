#include "services/gateway/openai/json.h"

#include <gtest/gtest.h>

namespace chord::gateway::openai {
namespace {

TEST(ParseJson, ReadsOneValueAsATree) {
  const auto json = ParseJson(R"({"a": [1, -2, 2.5, null, true, "x\u00e9"], "b": {"c": {}}})");
  ASSERT_TRUE(json);
  EXPECT_EQ((*json)["a"][1], -2);
  EXPECT_EQ((*json)["a"][5], "x\xC3\xA9");
  EXPECT_EQ((*json)["b"]["c"], Json::object());
  EXPECT_EQ(*ParseJson(" 3 "), 3);
}

TEST(ParseJson, RefusesWhatIsNoJson) {
  for (const char* text : {"", "{", "{}}", "{} x", "[1,]", "{\"a\":1,\"a\":2}", "{'a':1}", "nul",
                           "\"\x01\"", "\"\xff\"", "\"\xc0\x80\"", "NaN", "1e999"}) {
    EXPECT_FALSE(ParseJson(text)) << text;
  }
  EXPECT_FALSE(ParseJson(std::string("{}\0{}", 5)));
}

TEST(ParseJson, HoldsItsBoundsWhileItReads) {
  EXPECT_TRUE(ParseJson("[[[1]]]", {.max_depth = 3}));
  EXPECT_FALSE(ParseJson("[[[1]]]", {.max_depth = 2}));
  EXPECT_FALSE(ParseJson(std::string(1 << 20, '[')));
  EXPECT_TRUE(ParseJson("[1,2,3]", {.max_values = 4}));
  EXPECT_FALSE(ParseJson("[1,2,3]", {.max_values = 3}));
  std::string many = "[";
  for (int i = 0; i < 1'000'000; ++i) many += "[],";
  EXPECT_FALSE(ParseJson(many));
}

TEST(Dump, ReplacesIllFormedText) { EXPECT_EQ(Dump(OrderedJson("a\xff")), "\"a\xEF\xBF\xBD\""); }

}  // namespace
}  // namespace chord::gateway::openai
