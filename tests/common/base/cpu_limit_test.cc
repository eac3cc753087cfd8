#include "common/base/cpu_limit.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace chord {
namespace {

namespace fs = std::filesystem;

TEST(CpuLimitTest, ReadsQuotaAndPeriod) {
  EXPECT_EQ(ParseCpuMax("200000 100000"), 2.0);
  EXPECT_EQ(ParseCpuMax("50000 100000\n"), 0.5);
  for (const char* text :
       {"max 100000", "-1 100000", "", "100000", "0 100000", "100000 0", "1 2 3", "x y"}) {
    EXPECT_EQ(ParseCpuMax(text), std::nullopt) << text;
  }
}

class CgroupTest : public testing::Test {
 protected:
  CgroupTest() : root_(fs::path(testing::TempDir()) / absl::StrCat("cgroup-", getpid())) {
    fs::create_directories(root_);
  }
  ~CgroupTest() override { fs::remove_all(root_); }
  void Write(const std::string& file, const std::string& text) {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }
  const fs::path root_;
};

TEST_F(CgroupTest, TakesTheLeastOnTheWayToTheRoot) {
  EXPECT_EQ(CgroupCpus(root_, "/a/b"), std::nullopt);
  Write("a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(CgroupCpus(root_, "/a/b"), std::nullopt);
  Write("a/cpu.max", "300000 100000\n");
  EXPECT_EQ(CgroupCpus(root_, "/a/b"), 3.0);
  Write("a/b/cpu.max", "400000 100000\n");
  EXPECT_EQ(CgroupCpus(root_, "/a/b"), 3.0);
  Write("a/b/cpu.max", "150000 100000\n");
  EXPECT_EQ(CgroupCpus(root_, "/a/b"), 1.5);
  EXPECT_EQ(CgroupCpus(root_, "/a"), 3.0);
  EXPECT_EQ(CgroupCpus(root_, "/elsewhere"), std::nullopt);
}

TEST_F(CgroupTest, FindsAContainersOwnLimitAtTheMount) {
  Write("cpu.max", "100000 100000\n");
  EXPECT_EQ(CgroupCpus(root_, "/docker/of/the/host"), 1.0);
}

TEST_F(CgroupTest, ReadsTheFirstVersionToo) {
  Write("cpu/pod/cpu.cfs_quota_us", "250000\n");
  Write("cpu/pod/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(CgroupCpus(root_, "/pod"), 2.5);
  Write("cpu/pod/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(CgroupCpus(root_, "/pod"), std::nullopt);
}

TEST(CpuLimitTest, IsAtLeastOneAndNoMoreThanThereAre) {
  EXPECT_GE(UsableCpus(), 1);
  EXPECT_LE(UsableCpus(), 4096);
}

}  // namespace
}  // namespace chord
