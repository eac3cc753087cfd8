#include "common/obs/rotating_file.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"

namespace chord::obs {
namespace {

namespace fs = std::filesystem;

class RotatingFileTest : public testing::Test {
 protected:
  RotatingFileTest() {
    std::string folder = testing::TempDir() + "/rotating-XXXXXX";
    folder_ = mkdtemp(folder.data());
    options_.path = folder_ + "/chord.log";
  }
  ~RotatingFileTest() override { fs::remove_all(folder_); }
  std::unique_ptr<RotatingFile> Open() {
    auto file = RotatingFile::Open(options_, now_);
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? *std::move(file) : nullptr;
  }
  std::string Read(const std::string& suffix = "") const {
    std::ifstream in(options_.path + suffix);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
  }
  bool Exists(const std::string& suffix) const { return fs::exists(options_.path + suffix); }

  std::string folder_;
  RotatingFile::Options options_;
  absl::Time now_ = absl::Now();
};

TEST_F(RotatingFileTest, ANewFileBeginsBeforeTheLimitIsPassed) {
  options_.max_bytes = 8;
  options_.keep = 2;
  auto file = Open();
  for (const char* line : {"one1\n", "two\n", "three\n", "four\n", "five\n"}) {
    EXPECT_TRUE(file->Write(line, now_));
  }
  EXPECT_EQ(Read(), "five\n");
  EXPECT_EQ(Read(".1"), "four\n");
  EXPECT_EQ(Read(".2"), "three\n");
  EXPECT_FALSE(Exists(".3"));
}

TEST_F(RotatingFileTest, AnOldFileIsReplacedAndAnEmptyOneIsNot) {
  options_.max_age = absl::Hours(1);
  auto file = Open();
  EXPECT_TRUE(file->Write("a\n", now_ + absl::Hours(2)));
  EXPECT_FALSE(Exists(".1"));
  EXPECT_TRUE(file->Write("b\n", now_ + absl::Hours(4)));
  EXPECT_EQ(Read(".1"), "a\n");
  EXPECT_EQ(Read(), "b\n");
}

TEST_F(RotatingFileTest, GoesOnWhereAnEarlierProcessEnded) {
  options_.max_bytes = 8;
  EXPECT_TRUE(Open()->Write("first\n", now_));
  EXPECT_TRUE(Open()->Write("second\n", now_));
  EXPECT_EQ(Read(".1"), "first\n");
}

TEST_F(RotatingFileTest, NoticesThatTheFileWasMovedAway) {
  auto file = Open();
  EXPECT_TRUE(file->Write("a\n", now_));
  fs::rename(options_.path, options_.path + ".moved");
  EXPECT_TRUE(file->Write("b\n", now_ + absl::Seconds(2)));
  EXPECT_EQ(Read(), "b\n");
  EXPECT_EQ(Read(".moved"), "a\n");
}

TEST_F(RotatingFileTest, AFullFileThatWasMovedAwayLeavesTheOlderOnesInPlace) {
  options_.max_bytes = 8;
  auto file = Open();
  for (const char* line : {"first\n", "second\n"}) EXPECT_TRUE(file->Write(line, now_));
  fs::rename(options_.path, options_.path + ".moved");
  EXPECT_TRUE(file->Write("third\n", now_));
  EXPECT_EQ(Read(".1"), "first\n");
  EXPECT_EQ(Read(".moved"), "second\n");
  EXPECT_EQ(Read(), "third\n");
}

TEST_F(RotatingFileTest, AFolderThatWasRemovedLosesLinesAndNothingElse) {
  auto file = Open();
  fs::remove_all(folder_);
  EXPECT_FALSE(file->Write("a\n", now_ + absl::Seconds(2)));
  fs::create_directory(folder_);
  EXPECT_TRUE(file->Write("b\n", now_ + absl::Seconds(3)));
  EXPECT_EQ(Read(), "b\n");
}

TEST_F(RotatingFileTest, APathThatCannotBeWrittenIsAnError) {
  for (const std::string& path : {folder_, folder_ + "/none/x.log", std::string("/dev/full")}) {
    options_.path = path;
    EXPECT_EQ(ErrorReason(RotatingFile::Open(options_, now_).status()), "CONFIG_INVALID") << path;
  }
}

}  // namespace
}  // namespace chord::obs
