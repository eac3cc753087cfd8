#include "services/llm_worker/grammar/label_drafter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace chord::grammar {
namespace {

std::string Best(const std::string& prompt) {
  return LabelDrafter(prompt).Rest("", {}).value_or("(none)");
}

TEST(LabelDrafterTest, FindsTheThingThatIsAskedFor) {
  EXPECT_EQ(Best("find the red apple"), "red apple");
  EXPECT_EQ(Best("Where is the owl?"), "owl");
  EXPECT_EQ(Best("all bananas"), "banana");
  EXPECT_EQ(Best("find all strawberries"), "strawberry");
  EXPECT_EQ(Best("detect all the boxes in the image"), "box");
  EXPECT_EQ(Best("Locate the violin and return its bounding box."), "violin");
  EXPECT_EQ(Best("Where is the jar in this image?"), "jar");
  EXPECT_EQ(Best("point out the leftmost blue star"), "blue star");
  EXPECT_EQ(Best("the cat on the left"), "cat");
  EXPECT_EQ(Best("locate every person"), "person");
  EXPECT_EQ(Best("cat"), "cat");
  EXPECT_EQ(Best("找到图中的猫头鹰"), "猫头鹰");
  EXPECT_EQ(Best("所有红色五角星"), "红色五角星");
  EXPECT_EQ(Best("苹果在哪里？"), "苹果");
  EXPECT_EQ(Best("标出最左边的自行车的位置"), "自行车");
  EXPECT_EQ(Best("框出每一个小蛋糕的位置，以json格式输出所有的坐标"), "小蛋糕");
}

TEST(LabelDrafterTest, SeesWhetherMoreThanOneIsAskedFor) {
  for (const char* many :
       {"all bananas", "find every cat", "where are the dogs?", "找出所有苹果"}) {
    EXPECT_TRUE(LabelDrafter(many).many()) << many;
  }
  for (const char* one : {"find the ball", "the tall tree", "找到苹果", "every"}) {
    EXPECT_FALSE(LabelDrafter(one).many()) << one;
  }
}

TEST(LabelDrafterTest, GoesOnWithWhatIsBegun) {
  const LabelDrafter guesser("find the big red apple");
  EXPECT_EQ(guesser.Rest("red", {}), " apple");
  EXPECT_EQ(guesser.Rest("big r", {}), "ed apple");
  EXPECT_EQ(guesser.Rest("app", {}), "le");
  EXPECT_EQ(guesser.Rest("red apple", {}), "");
  EXPECT_EQ(guesser.Rest("banana", {}), std::nullopt);
  EXPECT_EQ(LabelDrafter("找到红苹果").Rest("红", {}), "苹果");
}

TEST(LabelDrafterTest, PrefersTheLabelsOfTheAnswer) {
  const LabelDrafter guesser("find all fruits");
  const std::vector<std::string> labels = {"apple", "banana"};
  EXPECT_EQ(guesser.Rest("", labels), "banana");
  EXPECT_EQ(guesser.Rest("a", labels), "pple");
  EXPECT_EQ(guesser.Rest("f", labels), "ruit");
}

TEST(LabelDrafterTest, HoldsAgainstAnyRequest) {
  for (const std::string& prompt :
       {std::string(), std::string("   ?"), std::string("\"\\\n\x01"), std::string(100'000, 'a'),
        std::string("all ") + std::string(5000, ' '), std::string("\xE7\xBA"), std::string("the"),
        std::string("所有")}) {
    const LabelDrafter guesser(prompt);
    for (const std::string& c : guesser.candidates()) {
      EXPECT_EQ(c.find_first_of("\"\\\n"), std::string::npos);
      EXPECT_LE(c.size(), 128u);
    }
  }
}

}  // namespace
}  // namespace chord::grammar
