#include "common/base/host_port.h"

#include <gtest/gtest.h>

namespace chord {
namespace {

TEST(HostPortTest, ReadsEveryFormOfAnAddress) {
  const std::pair<const char*, HostPort> cases[] = {
      {"localhost:80", {"localhost", 80}},
      {"127.0.0.1:0", {"127.0.0.1", 0}},
      {"[::1]:18085", {"::1", 18085}},
      {":18085", {"", 18085}},
      {"18085", {"", 18085}},
      {"a-b.example:65535", {"a-b.example", 65535}},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(ParseHostPort(text), expected) << text;
}

TEST(HostPortTest, RefusesWhatIsNoAddress) {
  for (const char* text : {"", ":", "a:", "a:b", "a:65536", "a:-1", "a:+1", "a: 1", "::1:80", "::1",
                           "[::1]", "[::1:80", "::1]:80", "[]:80", "a:000080", "host"}) {
    EXPECT_EQ(ParseHostPort(text), std::nullopt) << text;
  }
}

TEST(HostPortTest, WritesBracketsAroundV6) {
  EXPECT_EQ(FormatHostPort("::1", 80), "[::1]:80");
  EXPECT_EQ(FormatHostPort("localhost", 80), "localhost:80");
}

}  // namespace
}  // namespace chord
