#include "common/base/byte_budget.h"

#include <gtest/gtest.h>

#include <optional>

namespace chord {
namespace {

TEST(ByteBudgetTest, TakesWhatFitsAndReturnsIt) {
  ByteBudget budget({.limit = 100});
  {
    ByteBudget::Hold a = budget.Open("a"), b = budget.Open("b");
    EXPECT_TRUE(a.Take(60));
    EXPECT_FALSE(b.Take(41));
    EXPECT_TRUE(b.Take(40));
    EXPECT_FALSE(budget.HasRoom(1));
    ByteBudget::Hold moved = std::move(a);
    EXPECT_EQ(budget.held(), 100);
    moved.Release();
    EXPECT_EQ(budget.held(), 40);
  }
  EXPECT_EQ(budget.held(), 0);
}

TEST(ByteBudgetTest, SeveralArrivingTransfersOfOneClientHaveHalf) {
  ByteBudget budget({.limit = 100});
  ByteBudget::Hold first = budget.Open("a"), second = budget.Open("a"), other = budget.Open("b");
  EXPECT_TRUE(first.Receive(30));
  EXPECT_TRUE(second.Receive(20));
  EXPECT_FALSE(second.Receive(1));
  EXPECT_TRUE(other.Receive(50));
  other.Release();
  first.Arrived();  // alone again
  EXPECT_TRUE(second.Receive(50));
  EXPECT_EQ(budget.held(), 100);
}

TEST(ByteBudgetTest, OneTransferMayFillIt) {
  ByteBudget budget({.limit = 100});
  ByteBudget::Hold only = budget.Open("a");
  EXPECT_TRUE(only.Receive(70));
  EXPECT_TRUE(only.Receive(30));
  EXPECT_FALSE(only.Receive(1));
}

TEST(ByteBudgetTest, LetsALargerOneInAloneWhenAsked) {
  ByteBudget budget({.limit = 100, .oversize_alone = true});
  ByteBudget::Hold giant = budget.Open(""), other = budget.Open("");
  EXPECT_TRUE(giant.Take(1000));
  EXPECT_FALSE(other.Take(1));
  giant.Release();
  EXPECT_TRUE(other.Take(1));
  EXPECT_FALSE(giant.Take(100));
}

}  // namespace
}  // namespace chord
