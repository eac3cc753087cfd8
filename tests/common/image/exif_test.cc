#include "common/image/exif.h"

#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "tests/common/image/test_images.h"

namespace chord::image {
namespace {

using testing::Be16;
using testing::Be32;
using testing::Tiff;

TEST(ExifTest, ReadsEveryOrientationInBothByteOrders) {
  for (int value = 1; value <= 8; ++value) {
    EXPECT_EQ(ExifOrientation(Tiff(value, true)), value);
    EXPECT_EQ(ExifOrientation(Tiff(value, false)), value);
    EXPECT_EQ(ExifOrientation(std::string("Exif\0\0", 6) + Tiff(value)), value);
  }
}

TEST(ExifTest, TakesAValueOutOfRangeAsUpright) {
  for (int value : {0, 9, 255, 256, 65535}) EXPECT_EQ(ExifOrientation(Tiff(value)), 1) << value;
}

std::string Directory(absl::string_view entries, int count) {
  return absl::StrCat("MM", Be16(42), Be32(8), Be16(count), entries);
}
std::string Entry(int tag, int type, uint32_t count, absl::string_view value) {
  return absl::StrCat(Be16(tag), Be16(type), Be32(count), value);
}

TEST(ExifTest, FindsTheTagBehindOthers) {
  const std::string other = Entry(0x010f, 2, 4, "Cam");
  EXPECT_EQ(
      ExifOrientation(Directory(
          absl::StrCat(Entry(0x0100, 4, 1, Be32(5)), Entry(0x0112, 3, 1, Be16(6) + Be16(0))), 2)),
      6);
}

TEST(ExifTest, AcceptsTheIntegerTypesThatPillowDoesAndNoOther) {
  const std::string first("\x06\0\0\0", 4);
  EXPECT_EQ(ExifOrientation(Directory(Entry(0x0112, 1, 1, first), 1)), 1);
  EXPECT_EQ(ExifOrientation(Directory(Entry(0x0112, 6, 1, first), 1)), 6);
  EXPECT_EQ(ExifOrientation(Directory(Entry(0x0112, 8, 1, Be16(6) + Be16(0)), 1)), 6);
  EXPECT_EQ(ExifOrientation(Directory(Entry(0x0112, 9, 1, Be32(6)), 1)), 6);
  EXPECT_EQ(ExifOrientation(Directory(Entry(0x0112, 13, 1, Be32(6)), 1)), 6);
  EXPECT_EQ(ExifOrientation(Directory(Entry(0x0112, 4, 1, Be32(6)), 1)), 6);
  EXPECT_EQ(ExifOrientation(Directory(Entry(0x0112, 2, 1, Be32(6)), 1)), 1);
  EXPECT_EQ(ExifOrientation(Directory(Entry(0x0112, 5, 1, Be32(6)), 1)), 1);
  // Of several the first counts, also where they do not fit into the entry.
  EXPECT_EQ(ExifOrientation(Directory(Entry(0x0112, 3, 2, Be16(6) + Be16(0)), 1)), 6);
  const std::string apart = Directory(Entry(0x0112, 3, 3, Be32(22)), 1);
  ASSERT_EQ(apart.size(), 22u);
  EXPECT_EQ(ExifOrientation(apart + Be16(8) + Be16(1) + Be16(1)), 8);
  EXPECT_EQ(ExifOrientation(Directory(Entry(0x0112, 3, 3, Be32(0xFFFFFFFF)), 1)), 1);
  EXPECT_EQ(ExifOrientation(Directory(Entry(0x0112, 4, 0, Be32(6)), 1)), 1);
}

TEST(ExifTest, StaysInsideABlockThatIsCutOrLies) {
  const std::string whole = Tiff(6);
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string cut = whole.substr(0, size);  // its own allocation, for the sanitizer
    const int got = ExifOrientation(cut);
    EXPECT_TRUE(got == 1 || got == 6) << size;
  }
  for (uint32_t offset : {0u, 1u, 7u, 25u, 26u, 1000u, 0x7fffffffu, 0xfffffffeu, 0xffffffffu}) {
    EXPECT_EQ(ExifOrientation(absl::StrCat("MM", Be16(42), Be32(offset), whole.substr(8))), 1);
  }
  EXPECT_EQ(ExifOrientation(absl::StrCat("MM", Be16(42), Be32(8), Be16(65535))), 1);
  EXPECT_EQ(ExifOrientation(absl::StrCat("MM", Be16(43), whole.substr(4))), 1);
}

TEST(ExifTest, SurvivesGarbage) {
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = Tiff(6, i % 2 == 0);
    for (int flips = 0; flips < 3; ++flips) bytes[random() % bytes.size()] = random();
    const int got = ExifOrientation(bytes);
    ASSERT_TRUE(got >= 1 && got <= 8);
  }
}

}  // namespace
}  // namespace chord::image
