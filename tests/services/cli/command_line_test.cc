#include "services/cli/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace chord::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class CommandLineTest : public testing::Test {
 protected:
  CommandLineTest() : line_("chord test", "Summary.", "Epilog.") {
    line_.Positional("IMAGE", &image_, "an image");
    line_.Positional("PROMPT", &prompt_, "a prompt");
    line_.Text("server", &server_, "ADDR", "an address");
    line_.Switch("json", &json_, "as JSON");
    line_.Integer("parallel", &parallel_, 1, 16, "how many");
    line_.Number("timeout", &timeout_, 0.001, 3600, "SECONDS", "how long");
    line_.Choice("grammar", &grammar_, {"auto", "off"}, "which");
    line_.Repeated("flag", &flags_, "F", "passed on");
  }

  // Exit code, or -1 to go on. What was printed is in out_ and err_.
  int Parse(const std::vector<std::string>& args) {
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const int code = line_.Parse(args).value_or(-1);
    out_ = testing::internal::GetCapturedStdout();
    err_ = testing::internal::GetCapturedStderr();
    return code;
  }

  std::string image_, prompt_, server_ = "default", grammar_ = "auto", out_, err_;
  bool json_ = false;
  int parallel_ = 4;
  double timeout_ = 60;
  std::vector<std::string> flags_;
  CommandLine line_;
};

TEST_F(CommandLineTest, TakesBothSpellingsSwitchesAndPositionals) {
  EXPECT_EQ(Parse({"a.png", "--server=h:1", "--json", "the cat", "--parallel", "7"}), -1);
  EXPECT_EQ(image_, "a.png");
  EXPECT_EQ(prompt_, "the cat");
  EXPECT_EQ(server_, "h:1");
  EXPECT_TRUE(json_);
  EXPECT_EQ(parallel_, 7);
  EXPECT_TRUE(line_.Has("server"));
  EXPECT_FALSE(line_.Has("timeout"));
}

TEST_F(CommandLineTest, OptionsThatAreNotGivenKeepTheirDefault) {
  EXPECT_EQ(Parse({"a", "b"}), -1);
  EXPECT_EQ(server_, "default");
  EXPECT_EQ(timeout_, 60);
}

TEST_F(CommandLineTest, APositionalThatIsNotRequiredMayBeAbsentOrEmpty) {
  for (const std::vector<std::string>& args :
       {std::vector<std::string>{}, {"x"}, {""}, {"--", "--x"}}) {
    CommandLine line("chord test", "Summary.");
    std::string more;
    line.Positional("MORE", &more, "more", /*required=*/false);
    ASSERT_EQ(line.Parse(args), std::nullopt);
    EXPECT_EQ(line.Has("MORE"), !args.empty());
    EXPECT_EQ(more, args.empty() ? "" : args.back());
  }
}

TEST_F(CommandLineTest, DoubleDashEndsTheOptions) {
  EXPECT_EQ(Parse({"--", "--json", "-x"}), -1);
  EXPECT_EQ(image_, "--json");
  EXPECT_EQ(prompt_, "-x");
}

TEST_F(CommandLineTest, RepeatedOptionsCollectTheirValues) {
  EXPECT_EQ(Parse({"--flag", "a=1", "x", "y", "--flag=b=2"}), -1);
  EXPECT_THAT(flags_, ElementsAre("a=1", "b=2"));
}

TEST_F(CommandLineTest, LaterValuesReplaceEarlierOnesWhereThatIsAllowed) {
  std::string model;
  line_.AllowOverrides();
  line_.Text("model", &model, "DIR", "a folder");
  EXPECT_EQ(Parse({"a", "b", "--model", "x", "--model=y"}), -1);
  EXPECT_EQ(model, "y");
}

TEST_F(CommandLineTest, HelpNamesEveryOptionAndExitsWithZero) {
  for (const char* help : {"-h", "--help"}) {
    EXPECT_EQ(Parse({help}), kExitOk);
    for (const char* part : {"Summary.", "Epilog.", "--server ADDR", "--grammar auto|off"}) {
      EXPECT_THAT(out_, HasSubstr(part));
    }
    EXPECT_EQ(err_, "");
  }
}

TEST_F(CommandLineTest, AnErrorIsOneSentenceThatNamesTheOption) {
  const struct {
    std::vector<std::string> args;
    const char* named;
  } cases[] = {
      {{"a", "b", "--unknown"}, "--unknown"},
      {{"a", "b", "c"}, "c"},
      {{"a"}, "PROMPT"},
      {{"a", "b", "--server"}, "--server needs a value"},
      {{"a", "b", "--server", "x", "--server", "y"}, "--server is given twice"},
      {{"a", "b", "--json=1"}, "json"},
      {{"a", "b", "--json", "--json"}, "--json"},
      {{"a", "b", "--parallel", "0"}, "an integer from 1 to 16"},
      {{"a", "b", "--parallel", "2x"}, "an integer from 1 to 16"},
      {{"a", "b", "--timeout", "nan"}, "a number from 0.001 to 3600"},
      {{"a", "b", "--grammar", "on"}, "auto or off"},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(Parse(c.args), kExitUsage);
    EXPECT_THAT(err_, HasSubstr(c.named));
    EXPECT_EQ(std::count(err_.begin(), err_.end(), '\n'), 1) << err_;
    EXPECT_EQ(err_.rfind("chord test: ", 0), 0u) << err_;
  }
}

}  // namespace
}  // namespace chord::cli
