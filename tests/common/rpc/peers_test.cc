#include "common/rpc/peers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/synchronization/mutex.h"

namespace chord::rpc {
namespace {

TEST(SplitDnsAddress, TakesANameAndAPort) {
  const auto where = SplitDnsAddress("dns:workers.svc:7001");
  ASSERT_TRUE(where);
  EXPECT_EQ(where->host, "workers.svc");
  EXPECT_EQ(where->port, 7001);
  EXPECT_EQ(SplitDnsAddress("dns:[::1]:7001")->host, "::1");
  for (const char* bad : {"", "dns:", "dns:host", "dns:host:", "dns:host:0", "dns:host:65536",
                          "dns:host:x", "dns::1", "host:1", "unix:/x", "dns:[::1:7", "dns:::1:7"}) {
    EXPECT_FALSE(SplitDnsAddress(bad)) << bad;
  }
}

TEST(ResolvePeers, NamesEachAddressByItself) {
  const auto one = ResolvePeers("llm", {"127.0.0.2", 9});
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_THAT(*one, testing::ElementsAre(NamedPeer{"llm-127.0.0.2:9", "127.0.0.2:9"}));
  const auto local = ResolvePeers("llm", {"localhost", 9});
  ASSERT_TRUE(local.ok()) << local.status();
  EXPECT_THAT(*local, testing::Contains(testing::AnyOf(NamedPeer{"llm-127.0.0.1:9", "127.0.0.1:9"},
                                                       NamedPeer{"llm-[::1]:9", "[::1]:9"})));
}

TEST(ResolvePeers, SaysWhenANameIsNotKnown) {
  EXPECT_FALSE(ResolvePeers("llm", {"no..host", 9}).ok());
}

TEST(PeerWatch, LooksAgainAtOnceWhenAsked) {
  absl::Mutex mu;
  int rounds = 0;
  PeerWatch watch({{"llm", {"127.0.0.2", 9}}}, absl::Hours(1), [&](const auto&, const auto& found) {
    EXPECT_TRUE(found.ok());
    absl::MutexLock lock(&mu);
    ++rounds;
  });
  for (int want = 1; want <= 3; ++want) {
    absl::MutexLock lock(&mu);
    const auto there = [&] { return rounds >= want; };
    ASSERT_TRUE(mu.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(20))) << want;
    mu.Unlock();
    for (int i = 0; i < 100; ++i) watch.LookAgain();
    mu.Lock();
  }
}

}  // namespace
}  // namespace chord::rpc
