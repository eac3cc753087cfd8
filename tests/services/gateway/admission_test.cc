#include "services/gateway/admission.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/base/errors.h"
#include "tests/support/has_reason.h"

namespace chord::gateway {
namespace {

std::string Reason(const absl::StatusOr<Admission::Slot>& slot) {
  return slot.ok() ? "" : ErrorReason(slot.status());
}

TEST(Admission, LimitsAllAndEachClient) {
  Admission admission({3, 2, 1000});
  std::vector<Admission::Slot> slots;
  for (const char* client : {"a", "a", "b"}) {
    EXPECT_TRUE(admission.Check(client).ok());
    auto slot = admission.Enter(client, 1);
    ASSERT_TRUE(slot.ok());
    slots.push_back(*std::move(slot));
  }
  EXPECT_EQ(Reason(admission.Enter("c", 1)), "OVERLOADED");
  EXPECT_THAT(admission.Check("c"), HasReason(Reason::kOverloaded));
  slots.pop_back();
  EXPECT_EQ(Reason(admission.Enter("a", 1)), "CLIENT_LIMIT");
  EXPECT_THAT(admission.CheckUpload("a"), HasReason(Reason::kClientLimit));
  EXPECT_TRUE(admission.Enter("c", 1).ok());
  EXPECT_EQ(admission.in_flight(), 2);
  slots.clear();
  EXPECT_EQ(admission.in_flight(), 0);
  EXPECT_TRUE(admission.Check("a").ok());
}

TEST(Admission, EveryRefusalSaysWhenToComeAgain) {
  Admission admission({1, 1, 1000});
  const auto slot = admission.Enter("a", 1);
  for (int i = 0; i < 200; ++i) admission.Answered(absl::Seconds(3));
  const absl::Duration wait = RetryAfter(admission.Check("b"));
  EXPECT_GT(wait, absl::Seconds(2.9));
  EXPECT_LE(wait, absl::Seconds(3));
  for (int i = 0; i < 300; ++i) admission.Answered(absl::Milliseconds(1));
  EXPECT_EQ(RetryAfter(admission.Check("b")), absl::Milliseconds(200));
}

TEST(Admission, CountsBytesOfRequestsAndUploadsTogether) {
  Admission admission({10, 10, 100});
  auto upload = admission.EnterUpload("a", 60);
  ASSERT_TRUE(upload.ok());
  EXPECT_EQ(admission.in_flight(), 0) << "an upload is not a request that is being answered";
  EXPECT_EQ(Reason(admission.Enter("b", 41)), "OVERLOADED");
  EXPECT_TRUE(admission.Enter("b", 40).ok());
  *upload = {};
  EXPECT_TRUE(admission.Enter("b", 1000).ok()) << "alone even a big one may come";
}

TEST(Admission, CountsAnArrivingImageAsItComes) {
  Admission admission({10, 10, 100});
  auto first = admission.EnterUpload("a", 0), second = admission.EnterUpload("a", 0);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_TRUE(admission.Enter("b", 100).ok()) << "what has not come takes nothing";
  EXPECT_TRUE(first->Grow(30).ok());
  EXPECT_TRUE(second->Grow(20).ok());
  EXPECT_THAT(second->Grow(1), HasReason(Reason::kOverloaded)) << "half of the room is for others";
  EXPECT_EQ(Reason(admission.Enter("b", 51)), "OVERLOADED");
  EXPECT_TRUE(admission.Enter("b", 50).ok());
  auto other = admission.EnterUpload("c", 0);
  EXPECT_TRUE(other->Grow(50).ok());
  EXPECT_THAT(other->Grow(1), HasReason(Reason::kOverloaded));
  *second = {};
  *other = {};
  EXPECT_TRUE(first->Grow(70).ok()) << "one alone may have all";
  EXPECT_TRUE(first->Grow(900).ok());
  *first = {};
  EXPECT_TRUE(admission.Enter("b", 100).ok());
}

TEST(Admission, AMovedSlotIsGivenBackOnce) {
  Admission admission({1, 1, 100});
  {
    auto slot = admission.Enter("a", 1);
    ASSERT_TRUE(slot.ok());
    Admission::Slot other = *std::move(slot);
    EXPECT_EQ(admission.in_flight(), 1);
  }
  EXPECT_EQ(admission.in_flight(), 0);
  EXPECT_TRUE(admission.Enter("a", 1).ok());
}

TEST(RetryBudget, AllowsAShareOfTheTraffic) {
  RetryBudget budget(0.1, 2);
  EXPECT_TRUE(budget.TrySpend());
  EXPECT_TRUE(budget.TrySpend());
  EXPECT_FALSE(budget.TrySpend());
  for (int i = 0; i < 9; ++i) budget.Earn();
  EXPECT_FALSE(budget.TrySpend());
  for (int i = 0; i < 2; ++i) budget.Earn();
  EXPECT_TRUE(budget.TrySpend());
  for (int i = 0; i < 1000; ++i) budget.Earn();
  EXPECT_TRUE(budget.TrySpend());
  EXPECT_TRUE(budget.TrySpend());
  EXPECT_FALSE(budget.TrySpend()) << "quiet times do not save up for a storm";
}

TEST(ClientOfGrpcPeer, IsTheAddressWithoutPort) {
  EXPECT_EQ(ClientOfGrpcPeer("ipv4:10.0.0.1:4711"), "10.0.0.1");
  EXPECT_EQ(ClientOfGrpcPeer("ipv6:%5B2001:db8::1%5D:4711"), "2001:db8::1");
  EXPECT_EQ(ClientOfGrpcPeer("ipv6:[2001:db8::1]:4711"), "2001:db8::1");
  EXPECT_EQ(ClientOfGrpcPeer("ipv6:%5B::ffff:10.0.0.1%5D:4711"), "10.0.0.1");
  EXPECT_EQ(ClientOfGrpcPeer("unix:/run/chord.sock"), "local");
  EXPECT_EQ(ClientOfGrpcPeer("unix:"), "local");
}

}  // namespace
}  // namespace chord::gateway
