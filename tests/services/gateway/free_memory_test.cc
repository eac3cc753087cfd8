#include "services/gateway/free_memory.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

namespace chord {
namespace {

TEST(FreeMemory, GivesBackWhatAThreadHasFreed) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer has an allocator of its own";
#endif
  FreeMemory free(32 << 20);
  EXPECT_FALSE(free.Return());
  std::unique_ptr<char[]> last;  // keeps the arena from shrinking by itself
  std::thread([&last] {
    std::vector<std::unique_ptr<char[]>> blocks;
    for (int i = 0; i < 64 << 10; ++i) blocks.push_back(std::make_unique<char[]>(1 << 10));
    last = std::make_unique<char[]>(1 << 10);
  }).join();
  const int64_t held = ResidentBytes();
  EXPECT_TRUE(free.Return());
  EXPECT_LT(ResidentBytes(), held - (32 << 20));
  EXPECT_FALSE(free.Return());
}

}  // namespace
}  // namespace chord
