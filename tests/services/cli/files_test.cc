#include "services/cli/files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "common/base/errors.h"
#include "tests/support/has_reason.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;

class FilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(dir_);
    fs::create_directories(dir_);
  }
  std::string Path(const std::string& name) const { return (dir_ / name).string(); }
  size_t Count() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(dir_), {}));
  }
  const fs::path dir_ = fs::path(::testing::TempDir()) / ("files_test_" + std::to_string(getpid()));
};

TEST_F(FilesTest, WritesAndReadsWholeFiles) {
  const std::string bytes("a\0b", 3);
  ASSERT_TRUE(CheckWritable(Path("x")).ok());
  EXPECT_EQ(Count(), 0u);
  ASSERT_TRUE(WriteWhole(Path("x"), bytes).ok());
  ASSERT_TRUE(WriteWhole(Path("x"), bytes + bytes).ok());
  EXPECT_EQ(*ReadWhole(Path("x"), 6), bytes + bytes);
  EXPECT_EQ(Count(), 1u);
  EXPECT_FALSE(ReadWhole(Path("x"), 5).ok());
}

TEST_F(FilesTest, AFileThatCannotBeWrittenStaysAsItIs) {
  ASSERT_TRUE(WriteWhole(Path("x"), "old").ok());
  for (const std::string& path : {Path("none/x"), dir_.string(), std::string("/proc/none")}) {
    EXPECT_THAT(CheckWritable(path), HasReason(Reason::kFileNotWritten)) << path;
    EXPECT_THAT(WriteWhole(path, "new"), HasReason(Reason::kFileNotWritten)) << path;
  }
  EXPECT_TRUE(absl::StrContains(CheckWritable(Path("none/x")).message(), "No such file"));
  EXPECT_THAT(WriteWhole("/dev/full", "new"), HasReason(Reason::kFileNotWritten));
  EXPECT_EQ(*ReadWhole(Path("x"), 10), "old");
  EXPECT_EQ(Count(), 1u);
}

TEST_F(FilesTest, ALinkIsFollowed) {
  ASSERT_TRUE(WriteWhole(Path("x"), "old").ok());
  fs::create_symlink("x", Path("link"));
  ASSERT_TRUE(WriteWhole(Path("link"), "new").ok());
  EXPECT_EQ(*ReadWhole(Path("x"), 10), "new");
  EXPECT_TRUE(fs::is_symlink(Path("link")));
}

TEST_F(FilesTest, SaysWhyAFileCannotBeRead) {
  fs::create_symlink("loop", Path("loop"));
  ASSERT_EQ(mkfifo(Path("fifo").c_str(), 0600), 0);
  const auto why = [](const std::string& path) {
    return std::string(ReadWhole(path, 100).status().message());
  };
  EXPECT_TRUE(absl::StrContains(why(Path("none")), "No such file")) << why(Path("none"));
  EXPECT_TRUE(absl::StrContains(why(Path("loop")), "symbolic links")) << why(Path("loop"));
  EXPECT_TRUE(absl::StrContains(why(Path("fifo")), "not a file")) << why(Path("fifo"));
  EXPECT_TRUE(absl::StrContains(why(dir_.string()), "not a file")) << why(dir_.string());
}

}  // namespace
}  // namespace chord::cli
