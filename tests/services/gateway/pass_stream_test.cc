#include "services/gateway/pass_stream.h"

#include <gtest/gtest.h>

namespace chord::gateway {
namespace {

GroundObject Named(const char* label) {
  GroundObject out;
  out.label = label;
  return out;
}

struct Told {
  std::string log;
  PassStream stream;
  explicit Told(size_t passes)
      : stream(
            passes, [this](absl::string_view text) { log += std::string(text); },
            [this](const GroundObject& object) { log += "<" + object.label + ">"; }) {}
};

TEST(PassStream, PassesOneThroughAsItComes) {
  Told told(1);
  told.stream.Text(0, "a");
  EXPECT_EQ(told.log, "a");
  told.stream.Object(0, Named("x"));
  told.stream.Text(0, "b");
  EXPECT_EQ(told.log, "a<x>b");
  told.stream.End(0);
  EXPECT_EQ(told.log, "a<x>b");
}

TEST(PassStream, HoldsALaterPassUntilTheEarlierOnesHaveEnded) {
  Told told(3);
  told.stream.Text(2, "c");
  told.stream.Object(1, Named("y"));
  told.stream.End(1);
  told.stream.Text(0, "a");
  EXPECT_EQ(told.log, "a");
  told.stream.Object(2, Named("z"));
  told.stream.Object(0, Named("x"));
  EXPECT_EQ(told.log, "a<x>");
  told.stream.End(0);
  EXPECT_EQ(told.log, "a<x>\n<y>\nc<z>");
  told.stream.Text(2, "d");
  EXPECT_EQ(told.log, "a<x>\n<y>\nc<z>d");
}

TEST(PassStream, TellsOnlyWhatIsWanted) {
  std::string words;
  PassStream stream(
      2, [&](absl::string_view text) { words += std::string(text); }, nullptr);
  EXPECT_TRUE(stream.wants_text());
  EXPECT_FALSE(stream.wants_objects());
  stream.Object(0, Named("x"));
  stream.Text(0, "a");
  stream.End(0);
  stream.Text(1, "");
  stream.Text(1, "b");
  EXPECT_EQ(words, "a\nb");
}

}  // namespace
}  // namespace chord::gateway
