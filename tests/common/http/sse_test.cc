#include "common/http/sse.h"

#include <gtest/gtest.h>

#include <string>

namespace chord::http {
namespace {

class RecordedStream final : public ResponseStream {
 public:
  void Begin(Head begun) override {
    head = std::move(begun);
    ++begins;
  }
  bool Write(std::string bytes) override {
    text += bytes;
    return open;
  }
  Head head;
  std::string text;
  int begins = 0;
  bool open = true;
};

TEST(SseTest, TheFirstEventBeginsAResponseThatNamesItsEncoding) {
  RecordedStream stream;
  SseWriter events(stream, {{"X-Test", "1"}});
  EXPECT_FALSE(events.begun());
  EXPECT_EQ(stream.begins, 0);
  EXPECT_TRUE(events.Send("delta", R"({"text":"a"})"));
  EXPECT_TRUE(events.Send("", "x"));
  EXPECT_TRUE(events.begun());
  EXPECT_EQ(stream.begins, 1);
  EXPECT_EQ(stream.head.status, 200);
  EXPECT_EQ(stream.head.content_type, "text/event-stream; charset=utf-8");
  EXPECT_EQ(stream.head.fields[0].first, "X-Test");
  EXPECT_EQ(stream.text, "event: delta\ndata: {\"text\":\"a\"}\n\ndata: x\n\n");
}

TEST(SseTest, EachLineOfTheDataIsItsOwn) {
  RecordedStream stream;
  SseWriter events(stream);
  events.Send("a", "one\ntwo");
  EXPECT_EQ(stream.text, "event: a\ndata: one\ndata: two\n\n");
}

TEST(SseTest, SaysWhenNothingReachesTheClient) {
  RecordedStream stream;
  stream.open = false;
  SseWriter events(stream);
  EXPECT_FALSE(events.Send("a", "b"));
}

}  // namespace
}  // namespace chord::http
