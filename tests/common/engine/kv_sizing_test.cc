#include "common/engine/kv_sizing.h"

#include <gtest/gtest.h>

#include "common/engine/language_model.h"

namespace chord::engine {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

// The 3B in bf16.
KvSizingFacts ThreeB(int64_t total) {
  KvSizingFacts facts;
  facts.free_bytes = facts.total_bytes = total;
  facts.weight_bytes = 6'170'000'000;
  facts.kv_token_bytes = KvTokenBytes(36, 2, 128, 2, false);
  facts.embedding_token_bytes = 4096;
  facts.sequence_tokens = 8192;
  facts.prefill_tokens = 2048;
  facts.step_token_bytes = 100'000;
  return facts;
}

int64_t Used(const KvSizingFacts& facts, const KvSize& size) {
  return facts.weight_bytes + facts.step_token_bytes * facts.prefill_tokens +
         size.tokens * (facts.kv_token_bytes + 4 * facts.embedding_token_bytes);
}

TEST(KvSizingTest, CountsTheBytesOfAToken) {
  EXPECT_EQ(KvTokenBytes(36, 2, 128, 2, false), 36'864);
  EXPECT_EQ(KvTokenBytes(36, 2, 128, 2, true), 2 * 36 * 2 * (128 + 4));
}

TEST(KvSizingTest, CountsTheBytesOfWeights) {
  model::TextConfig config;
  config.hidden_size = 2048, config.num_hidden_layers = 36, config.num_attention_heads = 16;
  config.num_key_value_heads = 2, config.head_dim = 128, config.intermediate_size = 11008;
  config.vocab_size = 151936, config.tie_word_embeddings = true;
  EXPECT_NEAR(static_cast<double>(LanguageWeightBytes(config, 2)), 6.17e9, 0.01e9);
  EXPECT_EQ(StepTokenBytes(config, 2), 2 * (4 * 2048 + 3 * 18 * 128 + 3 * 11008));
}

TEST(KvSizingTest, TakesWhatIsFreeAndNoMore) {
  for (const int64_t gib : {16, 24, 40, 80, 141}) {
    KvSizingFacts facts = ThreeB(gib * kGiB);
    for (const bool shares : {false, true}) {
      facts.shares_device = shares;
      const KvSize size = SizeKv(facts);
      ASSERT_GE(size.tokens, facts.sequence_tokens) << gib;
      EXPECT_EQ(size.tokens % kKvPageTokens, 0);
      EXPECT_LE(size.tokens, kMaxAutoKvTokens);
      EXPECT_LT(Used(facts, size), facts.free_bytes) << gib;
      // Little of a small device is left over.
      if (gib == 24 && !shares) {
        EXPECT_GT(Used(facts, size), facts.free_bytes * 9 / 10);
      }
    }
  }
}

TEST(KvSizingTest, LeavesRoomForTheOtherWorker) {
  KvSizingFacts facts = ThreeB(24 * kGiB);
  const KvSize alone = SizeKv(facts);
  facts.shares_device = true;
  EXPECT_LT(SizeKv(facts).tokens, alone.tokens);
}

TEST(KvSizingTest, SequencesFollowTheTokens) {
  EXPECT_GE(SizeKv(ThreeB(80 * kGiB)).sequences, 32);
  KvSizingFacts facts = ThreeB(141 * kGiB);
  EXPECT_LE(SizeKv(facts).sequences, 64);
}

TEST(KvSizingTest, GivesNothingWhereTheLongestRequestDoesNotFit) {
  for (const int64_t gib : {0, 4, 7}) {
    const KvSize size = SizeKv(ThreeB(gib * kGiB));
    EXPECT_EQ(size.tokens, 0) << gib;
    EXPECT_EQ(size.sequences, 0);
    EXPECT_FALSE(size.reason.empty());
  }
}

}  // namespace
}  // namespace chord::engine
