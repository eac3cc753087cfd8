#include "common/engine/packed/packed_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/common/engine/tiny_model.h"

namespace chord::engine {
namespace {

namespace fs = std::filesystem;
using Kind = WeightFormat::Kind;

std::shared_ptr<const PackedMatrix> SomeMatrix(uint8_t fill, int64_t outputs = 70) {
  PackedHeader header;
  header.outputs = outputs;
  header.inputs = 40;
  header.group = 32;
  const auto matrix = PackedMatrix::Allocate(header);
  std::fill_n(matrix->output_scales(), header.blocks() * kPackedBlock, 0.5f);
  const std::vector<uint8_t> u(kPackedBlock * header.steps() * kPackedStep, fill);
  for (int64_t block = 0; block < header.blocks(); ++block) matrix->StoreBlock(block, u.data());
  return matrix;
}

class PackedCacheTest : public testing::Test {
 protected:
  PackedCacheTest() {
    root_ = fs::path(testing::TempDir()) / absl::StrCat("cache-", getpid());
    fs::create_directories(model_dir());
    for (const char* file : {"config.json", "tokenizer.json"}) {
      std::ofstream(model_dir() / file) << "{}";
    }
    const std::vector<std::byte> bytes(8);
    EXPECT_TRUE(model::WriteSafetensors(
                    (model_dir() / "model.safetensors").string(),
                    {{"visual.a", model::DType::kFloat32, {2}, absl::MakeConstSpan(bytes)}})
                    .ok());
    checkpoint_ = *model::Checkpoint::Open(model_dir().string());
    options_.dir = (root_ / "cache").string();
  }
  ~PackedCacheTest() override { fs::remove_all(root_); }

  fs::path model_dir() const { return root_ / "model"; }
  PackedCache Open(const char* part = "language", WeightFormat format = {Kind::kInt8}) const {
    return PackedCache(options_, *checkpoint_, part, format);
  }
  std::vector<fs::path> Files() const {
    std::vector<fs::path> files;
    if (!fs::exists(options_.dir)) return files;
    for (const auto& entry : fs::directory_iterator(options_.dir)) files.push_back(entry.path());
    return files;
  }

  fs::path root_;
  PackedCacheOptions options_;
  std::shared_ptr<const model::Checkpoint> checkpoint_;
};

TEST_F(PackedCacheTest, FindsWhatAnEarlierStartSaved) {
  {
    PackedCache cache = Open();
    EXPECT_EQ(cache.Find("a"), nullptr);
    EXPECT_FALSE(cache.hit());
    EXPECT_TRUE(cache.Save().ok());  // nothing to save
    EXPECT_TRUE(Files().empty());
    cache.Add("a", SomeMatrix(1));
    cache.Add("b", SomeMatrix(2, 200));
    ASSERT_TRUE(cache.Save().ok());
  }
  ASSERT_EQ(Files().size(), 1u);  // and no temporary file
  const PackedCache cache = Open();
  EXPECT_TRUE(cache.hit());
  for (const auto& [name, expected] : {std::pair{"a", SomeMatrix(1)}, {"b", SomeMatrix(2, 200)}}) {
    const auto found = cache.Find(name);
    ASSERT_NE(found, nullptr);
    EXPECT_TRUE(found->blob() == expected->blob());
  }
  EXPECT_EQ(cache.Find("c"), nullptr);
}

TEST_F(PackedCacheTest, KeepsMatricesAliveWhenTheFileIsDeleted) {
  PackedCache first = Open();
  first.Add("a", SomeMatrix(7));
  ASSERT_TRUE(first.Save().ok());
  std::shared_ptr<const PackedMatrix> found;
  {
    const PackedCache cache = Open();
    found = cache.Find("a");
  }
  fs::remove_all(options_.dir);
  ASSERT_NE(found, nullptr);
  EXPECT_TRUE(found->blob() == SomeMatrix(7)->blob());
}

TEST_F(PackedCacheTest, GivesEachFormatPartAndModelItsOwnFile) {
  const std::string path = Open().path();
  EXPECT_EQ(Open().path(), path);
  EXPECT_NE(Open("vision").path(), path);
  EXPECT_NE(Open("language", {Kind::kInt4, 32}).path(), path);
  EXPECT_NE(Open("language", {Kind::kInt4, 64}).path(), Open("language", {Kind::kInt4, 32}).path());
  fs::last_write_time(model_dir() / "model.safetensors",
                      fs::file_time_type::clock::now() - std::chrono::hours(1));
  EXPECT_NE(Open().path(), path);
}

TEST_F(PackedCacheTest, TakesADamagedFileAsNone) {
  PackedCache first = Open();
  first.Add("a", SomeMatrix(1));
  ASSERT_TRUE(first.Save().ok());
  // Where the blob ends; zeros follow, which nothing depends on.
  const auto size = static_cast<int64_t>(4096 + SomeMatrix(1)->blob().size());
  // Magic, count, the table, the blob's header, a weight.
  for (const int64_t at : {int64_t{0}, int64_t{8}, int64_t{30}, int64_t{4096 + 8}, size - 1}) {
    std::fstream file(first.path(), std::ios::binary | std::ios::in | std::ios::out);
    file.seekg(at);
    const auto before = static_cast<char>(file.get());
    file.seekp(at);
    file.put(static_cast<char>(before ^ 0x55));
    file.close();
    EXPECT_EQ(Open().Find("a"), nullptr) << at;
    file.open(first.path(), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(at);
    file.put(before);
    file.close();
    EXPECT_NE(Open().Find("a"), nullptr) << at;
  }
  fs::resize_file(first.path(), size - 64);
  EXPECT_EQ(Open().Find("a"), nullptr);
  fs::resize_file(first.path(), 10);
  EXPECT_EQ(Open().Find("a"), nullptr);
  // And it is replaced.
  PackedCache again = Open();
  again.Add("a", SomeMatrix(1));
  ASSERT_TRUE(again.Save().ok());
  EXPECT_NE(Open().Find("a"), nullptr);
}

TEST_F(PackedCacheTest, DropsTheFilesUsedLongestAgo) {
  const auto save = [&](const char* part) {
    PackedCache cache = Open(part);
    cache.Add("a", SomeMatrix(1));
    return cache.Save();
  };
  ASSERT_TRUE(save("one").ok());
  const auto bytes = static_cast<int64_t>(fs::file_size(Open("one").path()));
  options_.max_bytes = 2 * bytes;
  ASSERT_TRUE(save("two").ok());
  const auto now = fs::file_time_type::clock::now();
  fs::last_write_time(Open("one").path(), now - std::chrono::hours(2));
  fs::last_write_time(Open("two").path(), now - std::chrono::hours(3));
  fs::last_write_time(Open("one").path(), now - std::chrono::hours(2));
  std::ofstream(fs::path(options_.dir) / "notes.txt") << "not ours";
  EXPECT_NE(Open("one").Find("a"), nullptr);  // used now
  fs::last_write_time(Open("two").path(), now - std::chrono::hours(3));
  ASSERT_TRUE(save("three").ok());
  EXPECT_TRUE(fs::exists(Open("one").path()));
  EXPECT_FALSE(fs::exists(Open("two").path()));
  EXPECT_TRUE(fs::exists(Open("three").path()));
  EXPECT_TRUE(fs::exists(fs::path(options_.dir) / "notes.txt"));
}

TEST_F(PackedCacheTest, SaysWhenItCannotKeepThem) {
  options_.max_bytes = 100;
  PackedCache small = Open();
  small.Add("a", SomeMatrix(1));
  EXPECT_EQ(small.Save().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Files().empty());

  options_ = {};
  PackedCache none = Open();
  none.Add("a", SomeMatrix(1));
  EXPECT_TRUE(none.Save().ok());
  EXPECT_EQ(none.path(), "");

  options_.dir = (root_ / "model" / "config.json").string();  // not a folder
  PackedCache blocked = Open();
  blocked.Add("a", SomeMatrix(1));
  EXPECT_FALSE(blocked.Save().ok());
}

}  // namespace
}  // namespace chord::engine
