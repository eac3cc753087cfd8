#include "common/base/ids.h"

#include <gtest/gtest.h>

#include <set>

#include "common/base/sha256.h"

namespace chord {
namespace {

TEST(IdsTest, TicketsHaveTheirFormAndDiffer) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = NewTicketId();
    EXPECT_TRUE(IsTicketId(id));
    EXPECT_TRUE(seen.insert(id).second);
  }
  EXPECT_FALSE(IsTicketId(""));
  EXPECT_FALSE(IsTicketId(std::string(32, 'G')));
  EXPECT_FALSE(IsTicketId(std::string(33, 'a')));
}

TEST(Sha256Test, MatchesThePublishedVectorAndSeparatesFields) {
  Sha256 abc;
  abc.Update("abc");
  EXPECT_EQ(abc.HexDigest(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 left, right;
  left.UpdateField("ab");
  left.UpdateField("c");
  right.UpdateField("a");
  right.UpdateField("bc");
  EXPECT_NE(left.HexDigest(), right.HexDigest());
}

}  // namespace
}  // namespace chord
