#include "services/cli/args.h"

#include <gtest/gtest.h>

namespace chord::cli {
namespace {

const std::vector<FlagSpec> kSpecs = {{"server"}, {"json", false}};

absl::StatusOr<Args> Parse(std::vector<std::string> args) { return ParseArgs(args, kSpecs); }

TEST(ArgsTest, TakesBothSpellingsSwitchesAndPositionals) {
  auto args = Parse({"a.png", "--server=h:1", "--json", "the cat"});
  ASSERT_TRUE(args.ok());
  EXPECT_EQ(args->Get("server"), "h:1");
  EXPECT_TRUE(args->Has("json"));
  EXPECT_EQ(args->positional, (std::vector<std::string>{"a.png", "the cat"}));
  EXPECT_EQ(Parse({"--server", "h:2"})->Get("server"), "h:2");
}

TEST(ArgsTest, TheShortHelpIsTheLongOne) {
  const std::vector<FlagSpec> specs = {{"help", false}};
  const std::vector<std::string> args = {"-h"};
  ASSERT_TRUE(ParseArgs(args, specs).ok());
  EXPECT_TRUE(ParseArgs(args, specs)->Has("help"));
}

TEST(ArgsTest, DoubleDashEndsTheFlags) {
  auto args = Parse({"--", "--json"});
  ASSERT_TRUE(args.ok());
  EXPECT_EQ(args->positional, std::vector<std::string>{"--json"});
}

TEST(ArgsTest, RefusesWhatItDoesNotKnow) {
  EXPECT_FALSE(Parse({"--no-such"}).ok());
  EXPECT_FALSE(Parse({"--server"}).ok());
  EXPECT_FALSE(Parse({"--json=1"}).ok());
  EXPECT_FALSE(Parse({"--json", "--json"}).ok());
}

}  // namespace
}  // namespace chord::cli
