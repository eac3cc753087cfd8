#include "common/engine/attention.h"

#include <gtest/gtest.h>

#include "common/base/errors.h"

namespace chord::engine {
namespace {

TEST(AttentionTest, ReadsItsNames) {
  EXPECT_EQ(*ParseAttention(""), Attention::kAuto);
  EXPECT_EQ(*ParseAttention("auto"), Attention::kAuto);
  EXPECT_EQ(*ParseAttention("flash"), Attention::kFlash);
  EXPECT_EQ(*ParseAttention("efficient"), Attention::kEfficient);
  EXPECT_EQ(*ParseAttention("eager"), Attention::kEager);
  for (const char* text : {"Flash", "sdpa", " ", "flash "}) {
    EXPECT_FALSE(ParseAttention(text).ok()) << text;
  }
}

}  // namespace
}  // namespace chord::engine
