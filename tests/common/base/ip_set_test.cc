#include "common/base/ip_set.h"

#include <gtest/gtest.h>

namespace chord {
namespace {

TEST(IpSet, HoldsAddressesAndNetworksOfBothKinds) {
  const auto set = IpSet::Parse({"10.0.0.0/8", "192.168.1.7", "fd00::/9", "::1"});
  ASSERT_TRUE(set.ok());
  for (const char* in : {"10.0.0.0", "10.255.255.255", "192.168.1.7", "::ffff:10.1.2.3", "fd7f::1",
                         "::1", "0:0:0:0:0:0:0:1"}) {
    EXPECT_TRUE(set->Contains(in)) << in;
  }
  for (const char* out : {"11.0.0.0", "192.168.1.8", "fd80::1", "::2", "", "x", "10.0.0.1:80",
                          "10.0.0", "::ffff:11.0.0.1"}) {
    EXPECT_FALSE(set->Contains(out)) << out;
  }
}

TEST(IpSet, ZeroBitsAreEveryAddressOfItsKind) {
  const auto set = IpSet::Parse({"0.0.0.0/0"});
  ASSERT_TRUE(set.ok());
  EXPECT_TRUE(set->Contains("203.0.113.9"));
  EXPECT_FALSE(set->Contains("2001:db8::1"));
}

TEST(IpSet, RefusesWhatIsNeither) {
  for (const char* entry :
       {"", "host", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "::/129", "/8"}) {
    EXPECT_FALSE(IpSet::Parse({entry}).ok()) << entry;
  }
}

}  // namespace
}  // namespace chord
