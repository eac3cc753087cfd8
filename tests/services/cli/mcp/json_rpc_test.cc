#include "services/cli/mcp/json_rpc.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <thread>

namespace chord::cli::mcp {
namespace {

// What a LineReader makes of `text`: the lines, "<long>" for one over the limit.
std::vector<std::string> LinesOf(const std::string& text, size_t max_bytes) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  std::thread writer([&] {
    for (size_t at = 0; at < text.size();) {
      const ssize_t written = write(ends[1], text.data() + at, text.size() - at);
      if (written <= 0) break;
      at += static_cast<size_t>(written);
    }
    close(ends[1]);
  });
  std::vector<std::string> out;
  LineReader reader(ends[0], max_bytes);
  while (true) {
    const auto line = reader.Next();
    if (line.ok() && !line->has_value()) break;
    out.push_back(line.ok() ? **line : "<long>");
  }
  writer.join();
  close(ends[0]);
  return out;
}

using Lines = std::vector<std::string>;

TEST(LineReaderTest, SplitsLinesWhateverTheirEnds) {
  EXPECT_EQ(LinesOf("a\nbc\r\n\nd", 100), (Lines{"a", "bc", "", "d"}));
  EXPECT_EQ(LinesOf("", 100), Lines{});
  EXPECT_EQ(LinesOf("a\n", 100), Lines{"a"});
}

TEST(LineReaderTest, SkipsALineOverTheLimitAndGoesOn) {
  const std::string line(1 << 20, 'x');
  EXPECT_EQ(LinesOf("a\n" + line + "\nb\n", 1000), (Lines{"a", "<long>", "b"}));
  EXPECT_EQ(LinesOf(line + "\n" + line + "\nb", 1000), (Lines{"<long>", "<long>", "b"}));
  EXPECT_EQ(LinesOf(line, 1000), Lines{"<long>"});
}

TEST(LineReaderTest, TakesALineOfManyReads) {
  const std::string line(1 << 20, 'x');
  EXPECT_EQ(LinesOf(line + "\nb", 2 << 20), (Lines{line, "b"}));
}

TEST(ParseMessageTest, BoundsWhatItTakes) {
  EXPECT_TRUE(ParseMessage(R"({"a": [1, "x"]})", 100).has_value());
  EXPECT_FALSE(ParseMessage(R"({"a": )", 100).has_value());
  EXPECT_FALSE(ParseMessage("\"\xff\"", 100).has_value());
  EXPECT_FALSE(ParseMessage("\"" + std::string(200, 'x') + "\"", 100).has_value());
  EXPECT_FALSE(ParseMessage(std::string(1000, '[') + std::string(1000, ']'), 100).has_value());
}

TEST(ToLineTest, IsOneLineOfUtf8) {
  const std::string line = ToLine(ResultMessage("i\nd", "红\xff"));
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_EQ(Json::parse(line)["result"], "红\xEF\xBF\xBD");
}

}  // namespace
}  // namespace chord::cli::mcp
