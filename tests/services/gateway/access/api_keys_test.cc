#include "services/gateway/access/api_keys.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/sha256.h"

namespace chord::gateway {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1'000'000);

config::ApiKeyEntry Entry(const std::string& name, const std::string& key, double pace = 0,
                          double burst = 1) {
  config::ApiKeyEntry out;
  out.name = name;
  Sha256 hash;
  hash.Update(key);
  const std::string digest = hash.Digest();
  std::copy(digest.begin(), digest.end(), out.sha256.begin());
  out.requests_per_second = pace;
  out.burst = burst;
  return out;
}

std::string Reason(const absl::StatusOr<std::string>& result) {
  return result.ok() ? *result : ErrorReason(result.status());
}

TEST(ApiKeys, NamesTheKeyThatIsKnown) {
  ApiKeys keys({Entry("a", "one"), Entry("b", "two")});
  EXPECT_EQ(Reason(keys.Check("one", "c", kNow)), "a");
  EXPECT_EQ(Reason(keys.Check("two", "c", kNow)), "b");
  EXPECT_EQ(Reason(keys.Check("", "c", kNow)), "API_KEY_MISSING");
  for (const std::string& wrong :
       {std::string("onE"), std::string("one "), std::string(4096, 'x')}) {
    EXPECT_EQ(Reason(keys.Check(wrong, "c", kNow)), "API_KEY_UNKNOWN");
  }
}

TEST(ApiKeys, AnEmptyListLetsNoRequestThrough) {
  ApiKeys keys({});
  EXPECT_EQ(Reason(keys.Check("one", "c", kNow)), "API_KEY_UNKNOWN");
}

TEST(ApiKeys, AKeyExpires) {
  auto entry = Entry("a", "one");
  entry.expires = kNow + absl::Hours(1);
  ApiKeys keys({entry});
  EXPECT_EQ(Reason(keys.Check("one", "c", kNow)), "a");
  EXPECT_EQ(Reason(keys.Check("one", "c", kNow + absl::Hours(1))), "API_KEY_UNKNOWN");
}

TEST(ApiKeys, AKeyHasAPaceOfItsOwn) {
  ApiKeys keys({Entry("slow", "one", 2, 3), Entry("other", "two", 2, 3)});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Reason(keys.Check("one", "c", kNow)), "slow");
  const auto refused = keys.Check("one", "c", kNow);
  EXPECT_EQ(Reason(refused), "API_KEY_LIMIT");
  EXPECT_EQ(RetryAfter(refused.status()), absl::Milliseconds(500));
  EXPECT_EQ(Reason(keys.Check("two", "c", kNow)), "other");
  EXPECT_EQ(Reason(keys.Check("one", "c", kNow + absl::Milliseconds(500))), "slow");
  EXPECT_EQ(Reason(keys.Check("one", "c", kNow + absl::Milliseconds(500))), "API_KEY_LIMIT");
}

TEST(ApiKeys, WrongKeysBlockTheAddressAndNoOther) {
  ApiKeys keys({Entry("a", "one")});
  for (int i = 0; i < ApiKeys::kWrongBurst; ++i) {
    EXPECT_EQ(Reason(keys.Check(absl::StrCat("wrong", i), "evil", kNow)), "API_KEY_UNKNOWN");
  }
  EXPECT_EQ(Reason(keys.Check("wrong", "evil", kNow)), "API_KEY_BLOCKED");
  EXPECT_EQ(Reason(keys.Check("one", "evil", kNow)), "API_KEY_BLOCKED");
  EXPECT_EQ(Reason(keys.Check("one", "good", kNow)), "a");
  EXPECT_EQ(Reason(keys.Check("one", "evil", kNow + ApiKeys::kWrongInterval)), "a");
}

TEST(ApiKeys, ManyAddressesTakeBoundedMemory) {
  ApiKeys keys({Entry("a", "one")});
  for (int i = 0; i < 50'000; ++i) {
    EXPECT_EQ(Reason(keys.Check("x", absl::StrCat("client", i), kNow)), "API_KEY_UNKNOWN");
  }
  EXPECT_EQ(Reason(keys.Check("one", "client1", kNow)), "a");
}

TEST(ApiKeys, AKeyThatStaysKeepsItsPace) {
  ApiKeys keys({Entry("a", "one", 1, 1)});
  EXPECT_EQ(Reason(keys.Check("one", "c", kNow)), "a");
  keys.Replace({Entry("renamed", "one", 1, 1), Entry("b", "two")});
  EXPECT_EQ(Reason(keys.Check("one", "c", kNow)), "API_KEY_LIMIT");
  EXPECT_EQ(Reason(keys.Check("two", "c", kNow)), "b");
  keys.Replace({Entry("b", "two")});
  EXPECT_EQ(Reason(keys.Check("one", "c", kNow)), "API_KEY_UNKNOWN");
}

}  // namespace
}  // namespace chord::gateway
