#include "services/gateway/access/access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "common/base/errors.h"

namespace chord::gateway {
namespace {

// printf one | sha256sum; printf two | sha256sum
constexpr char kOne[] = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed";
constexpr char kTwo[] = "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3";

class AccessTest : public testing::Test {
 protected:
  ~AccessTest() override { unlink(path_.c_str()); }
  void WriteKeys(const std::string& text) { std::ofstream(path_) << text; }
  std::unique_ptr<Access> Create() {
    Access::Options options;
    options.api_keys_file = path_;
    options.trusted_proxies = *IpSet::Parse({"10.0.0.0/8"});
    auto access = Access::Create(options, metrics_);
    EXPECT_TRUE(access.ok()) << access.status();
    return access.ok() ? *std::move(access) : nullptr;
  }
  static std::string Ask(const Access& access, const std::string& authorization,
                         const std::string& api_key = "") {
    const auto client = access.Identify({"10.0.0.9", "203.0.113.5", authorization, api_key});
    return client.ok() ? client->id : ErrorReason(client.status());
  }

  const std::string path_ = testing::TempDir() + "/keys-" + std::to_string(getpid());
  obs::Metrics metrics_{obs::Role::kGateway, "1"};
};

TEST(ClientAddress, OnlyATrustedProxyNamesTheClient) {
  const IpSet trusted = *IpSet::Parse({"10.0.0.0/8", "::1"});
  const auto client = [&](const char* peer, const char* forwarded) {
    return ClientAddress(trusted, peer, forwarded);
  };
  EXPECT_EQ(client("203.0.113.5", "198.51.100.1"), "203.0.113.5") << "a client names another one";
  EXPECT_EQ(client("10.0.0.1", ""), "10.0.0.1");
  EXPECT_EQ(client("10.0.0.1", "198.51.100.1"), "198.51.100.1");
  EXPECT_EQ(client("::1", "198.51.100.1, 10.0.0.7"), "198.51.100.1") << "through two proxies";
  EXPECT_EQ(client("10.0.0.1", "1.2.3.4, 198.51.100.1"), "198.51.100.1") << "the client's own lie";
  EXPECT_EQ(client("10.0.0.1", "1.2.3.4, junk, 10.0.0.7"), "10.0.0.7");
  EXPECT_EQ(client("10.0.0.1", "0.0.0.0/0"), "10.0.0.1");
  EXPECT_EQ(client("10.0.0.1", "2001:db8::7"), "2001:db8::7");
}

TEST_F(AccessTest, AKeyComesInEitherField) {
  WriteKeys(std::string("keys: [{name: a, sha256: ") + kOne + "}]\n");
  const auto access = Create();
  EXPECT_EQ(Ask(*access, "Bearer one"), "key:a");
  EXPECT_EQ(Ask(*access, "bearer  one "), "key:a");
  EXPECT_EQ(Ask(*access, "", "one"), "key:a");
  EXPECT_EQ(Ask(*access, "Basic eDp5", "one"), "key:a");
  EXPECT_EQ(Ask(*access, "Basic eDp5"), "API_KEY_MISSING");
  EXPECT_EQ(Ask(*access, ""), "API_KEY_MISSING");
  EXPECT_EQ(Ask(*access, "Bearer two", "one"), "API_KEY_UNKNOWN");
  EXPECT_THAT(metrics_.Serialize(), testing::HasSubstr("chord_auth_total{outcome=\"ok\"} 4\n"));
}

TEST_F(AccessTest, WithoutAFileNoKeyIsWantedAndTheAddressCounts) {
  Access::Options options;
  options.trusted_proxies = *IpSet::Parse({"10.0.0.0/8"});
  const auto access = Access::Create(options, metrics_);
  ASSERT_TRUE(access.ok());
  EXPECT_EQ(Ask(**access, "Bearer anything"), "203.0.113.5");
}

TEST_F(AccessTest, ANewFileCountsAndABrokenOneDoesNot) {
  WriteKeys(std::string("keys: [{name: a, sha256: ") + kOne + "}]\n");
  const auto access = Create();
  WriteKeys("keys: [{name: a}]\n# broken\n");
  access->Maintain();
  EXPECT_EQ(Ask(*access, "Bearer one"), "key:a");
  WriteKeys(std::string("keys:\n  - {name: b, sha256: ") + kTwo + "}\n");
  access->Maintain();
  EXPECT_EQ(Ask(*access, "Bearer one"), "API_KEY_UNKNOWN");
  EXPECT_EQ(Ask(*access, "Bearer two"), "key:b");
}

TEST_F(AccessTest, AFileThatIsWrongSaysWhere) {
  const std::string good = std::string("sha256: ") + kOne;
  for (const auto& [text, message] : std::vector<std::pair<std::string, std::string>>{
           {"keys: [{name: a, " + good + "},\n {name: a, " + good + "}]", ":2: the name \"a\""},
           {"keys: [{name: a}]", ":1: a key needs name and sha256"},
           {"keys: [{name: a, sha256: 12}]", "sha256 is not valid"},
           {"keys: [{name: a b, " + good + "}]", "name is not valid"},
           {"keys: [{name: a, " + good + ", requests_per_second: -1}]", "is not valid"},
           {"keys: [{name: a, " + good + ", expires: soon}]", "expires is not valid"},
           {"keys: [{name: a, " + good + ", secret: x}]", "no field \"secret\""},
           {"name: a", "a list of keys"},
           {"keys: [", "not valid YAML"}}) {
    WriteKeys(text);
    const auto entries = config::ReadApiKeysFile(path_);
    ASSERT_FALSE(entries.ok()) << text;
    EXPECT_THAT(std::string(entries.status().message()), testing::HasSubstr(message)) << text;
  }
  EXPECT_EQ(ErrorReason(config::ReadApiKeysFile("/nonexistent").status()), "CONFIG_INVALID");
}

}  // namespace
}  // namespace chord::gateway
