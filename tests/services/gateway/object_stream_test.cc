#include "services/gateway/object_stream.h"

#include <gtest/gtest.h>

namespace chord::gateway {
namespace {

image::FramePlan Frame() { return *image::PlanFrame({image::Format::kPng, 280, 280, 1}, {}); }

// Feeds `text` byte by byte; returns after how many bytes each object was told.
std::vector<size_t> ToldAt(const std::string& text) {
  ObjectStream stream(Frame());
  std::vector<size_t> out;
  for (size_t i = 0; i < text.size(); ++i) {
    for (size_t n = stream.Add(text.substr(i, 1)).size(); n > 0; --n) out.push_back(i + 1);
  }
  EXPECT_EQ(stream.told(), out.size());
  return out;
}

TEST(ObjectStream, TellsAnObjectWhenItIsCompleteAndOnlyOnce) {
  const std::string first = R"([{"bbox_2d": [10, 10, 50, 50], "label": "cup"})";
  const std::string text = first + R"(, {"bbox_2d": [60, 60, 90, 90], "label": "dish"}])";
  EXPECT_EQ(ToldAt(text), (std::vector<size_t>{first.size(), text.size() - 1}));
}

TEST(ObjectStream, GivesLabelAndBoxInPixelsOfTheImage) {
  ObjectStream stream(Frame());
  EXPECT_TRUE(stream.Add(R"([{"bbox_2d": [10, 10, )").empty());
  const auto objects = stream.Add(R"(50, 60], "label": "cup"}])");
  ASSERT_EQ(objects.size(), 1u);
  EXPECT_EQ(objects[0].label, "cup");
  EXPECT_EQ(objects[0].box, (image::Box{10, 10, 50, 60}));
}

TEST(ObjectStream, PassesOverWhatTheAnswerWillNotHold) {
  ObjectStream stream(Frame());
  EXPECT_TRUE(stream.Add(R"([{"bbox_2d": [900, 900, 950, 950], "label": "outside"})").empty());
  EXPECT_EQ(stream.Add(R"(, {"bbox_2d": [1, 1, 9, 9], "label": "inside"}])").size(), 1u);
  EXPECT_EQ(stream.told(), 1u);
}

TEST(ObjectStream, HasBoundedWork) {
  ObjectStream stream(Frame());
  const std::string junk(40 << 10, '{');
  stream.Add(junk);
  EXPECT_TRUE(stream.Add(junk + R"([{"bbox_2d": [10, 10, 50, 50]}])").empty());
}

}  // namespace
}  // namespace chord::gateway
