#include "services/cli/ground/image_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace chord::cli {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;

class ListImagesTest : public testing::Test {
 protected:
  ListImagesTest() : dir_(fs::path(testing::TempDir()) / ("folder" + std::to_string(getpid()))) {
    fs::create_directories(dir_);
  }
  ~ListImagesTest() override { fs::remove_all(dir_); }

  void Write(const std::string& name, const std::string& bytes) {
    std::ofstream(dir_ / name, std::ios::binary) << bytes;
  }
  std::vector<std::string> Names(const ImageFolder& folder) {
    std::vector<std::string> out;
    for (const std::string& path : folder.images) out.push_back(fs::path(path).filename());
    return out;
  }

  const fs::path dir_;
};

const char kPng[] = "\x89PNG\r\n\x1a\n............";

TEST_F(ListImagesTest, TellsImagesByTheirBytesAndSkipsOtherFiles) {
  Write("b.bin", kPng);
  Write("a.png", kPng);
  Write("notes.txt", "a text that is longer than a signature");
  Write("short.txt", "hi");
  fs::create_directory(dir_ / "sub.png");
  const auto folder = ListImages(dir_);
  ASSERT_TRUE(folder.ok());
  EXPECT_THAT(Names(*folder), ElementsAre("a.png", "b.bin"));
  EXPECT_EQ(folder->skipped, 2u);
}

TEST_F(ListImagesTest, ListsWhatCannotBeReadSoThatItIsReported) {
  Write("empty.jpg", "");
  Write("empty", "");
  Write("tiny.png", "\x89P");
  fs::create_symlink(dir_ / "missing", dir_ / "dangling.jpg");
  fs::create_symlink(dir_ / "missing", dir_ / "dangling");
  const auto folder = ListImages(dir_);
  ASSERT_TRUE(folder.ok());
  EXPECT_THAT(Names(*folder),
              ElementsAre("dangling", "dangling.jpg", "empty", "empty.jpg", "tiny.png"));
  EXPECT_EQ(folder->skipped, 0u);
}

TEST_F(ListImagesTest, AFolderThatIsNotThereIsAnError) {
  EXPECT_FALSE(ListImages((dir_ / "none").string()).ok());
}

}  // namespace
}  // namespace chord::cli
