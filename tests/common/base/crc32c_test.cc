#include "common/base/crc32c.h"

#include <gtest/gtest.h>

#include <string>

namespace chord {
namespace {

// RFC 3720, appendix B.4.
TEST(Crc32c, KnowsThePublishedValues) {
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(Crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
  std::string rising;
  for (int i = 0; i < 32; ++i) rising += static_cast<char>(i);
  EXPECT_EQ(Crc32c(rising), 0x46DD794Eu);
  EXPECT_EQ(Crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(Crc32c(""), 0u);
}

TEST(Crc32c, PortableAndInstructionAgreeOnEveryLength) {
  std::string data;
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(Crc32c(data), internal::Crc32cPortable(data)) << i;
    data += static_cast<char>(i * 37 + 11);
  }
}

TEST(Crc32c, EveryFlippedBitIsSeen) {
  const std::string good(100, 'x');
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] ^= static_cast<char>(1 << (bit % 8));
    EXPECT_NE(Crc32c(bad), Crc32c(good)) << bit;
  }
}

}  // namespace
}  // namespace chord
