#include "services/cli/serve/listen_address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/host_port.h"

namespace chord::cli {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

TEST(ReserveListenAddress, TakesAddressesAsPeopleWriteThem) {
  for (const char* text : {"0", ":0", "127.0.0.1:0", "localhost:0"}) {
    const auto address = ReserveListenAddress(text, "http");
    ASSERT_TRUE(address.ok()) << text << ": " << address.status();
    const auto parsed = ParseHostPort(*address);
    ASSERT_TRUE(parsed.ok());
    EXPECT_FALSE(parsed->host.empty()) << text;
    EXPECT_GT(parsed->port, 0) << text;
  }
}

TEST(ReserveListenAddress, AnErrorNamesTheFlag) {
  for (const char* text : {"", "host", "1.2.3.4:99999", "::1:80", "no-such-host.invalid:80"}) {
    const auto address = ReserveListenAddress(text, "grpc");
    ASSERT_FALSE(address.ok()) << text;
    EXPECT_THAT(std::string(address.status().message()), StartsWith("--grpc"));
  }
}

TEST(LocalAddressOf, IsLoopbackForAWildcard) {
  EXPECT_EQ(LocalAddressOf("0.0.0.0:80"), "127.0.0.1:80");
  EXPECT_EQ(LocalAddressOf("[::]:80"), "[::1]:80");
  EXPECT_EQ(LocalAddressOf("[::1]:80"), "[::1]:80");
  EXPECT_EQ(LocalAddressOf("10.0.0.1:80"), "10.0.0.1:80");
}

}  // namespace
}  // namespace chord::cli
