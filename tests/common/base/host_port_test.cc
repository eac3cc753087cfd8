#include "common/base/host_port.h"

#include <gtest/gtest.h>

namespace chord {
namespace {

TEST(HostPort, AcceptsTheFormsThatPeopleWrite) {
  const struct {
    const char* text;
    const char* host;
    int port;
    const char* written;
  } cases[] = {
      {"127.0.0.1:8080", "127.0.0.1", 8080, "127.0.0.1:8080"},
      {"localhost:0", "localhost", 0, "localhost:0"},
      {"[::1]:18085", "::1", 18085, "[::1]:18085"},
      {"[fe80::1%eth0]:1", "fe80::1%eth0", 1, "[fe80::1%eth0]:1"},
      {":8080", "", 8080, ":8080"},
      {"65535", "", 65535, ":65535"},
  };
  for (const auto& c : cases) {
    const auto parsed = ParseHostPort(c.text);
    ASSERT_TRUE(parsed.ok()) << c.text;
    EXPECT_EQ(parsed->host, c.host);
    EXPECT_EQ(parsed->port, c.port);
    EXPECT_EQ(parsed->ToString(), c.written);
  }
}

TEST(HostPort, RefusesEverythingElse) {
  for (const char* text :
       {"", "host", "host:", "host:x", "host:65536", "host:-1", "::1", "::1:80", "[::1]", "[]:80",
        "[host]:80", "http://host:80", "host:80/path", "a b:80", "host:080000"}) {
    EXPECT_FALSE(ParseHostPort(text).ok()) << text;
  }
}

}  // namespace
}  // namespace chord
