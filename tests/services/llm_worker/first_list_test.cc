#include "services/llm_worker/first_list.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace chord::llm_worker {
namespace {

TEST(ClassifyToken, SaysWhatATokenDoesToTheFirstList) {
  using F = ListFate;
  struct Row {
    const char* bytes;
    F before, after;
  };
  const Row rows[] = {
      {"[]", F::kEmpty, F::kFilled},          {"[{\"", F::kFilled, F::kFilled},
      {"[", F::kOpened, F::kFilled},          {" [\n", F::kOpened, F::kFilled},
      {"[ ]", F::kEmpty, F::kFilled},         {"]", F::kUndecided, F::kEmpty},
      {"\n]", F::kUndecided, F::kEmpty},      {"\n\t", F::kUndecided, F::kUndecided},
      {"```json\n[]", F::kEmpty, F::kFilled}, {"text", F::kUndecided, F::kFilled},
      {"{", F::kUndecided, F::kFilled},       {"", F::kUndecided, F::kUndecided},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(ClassifyToken(row.bytes, false), row.before) << row.bytes;
    EXPECT_EQ(ClassifyToken(row.bytes, true), row.after) << row.bytes;
  }
}

class FirstListTest : public ::testing::Test {
 protected:
  FirstListTest()
      : tokenizer_(model::Tokenizer::Load(std::string(CHORD_SOURCE_DIR) +
                                          "/models/chord-nano/tokenizer.json")) {
    EXPECT_TRUE(tokenizer_.ok()) << tokenizer_.status();
    fates_ = std::make_unique<ListFates>(*tokenizer_, tokenizer_->size());
  }
  int32_t Id(const std::string& text) {
    const auto ids = tokenizer_->EncodeText(text);
    EXPECT_EQ(ids.size(), 1u) << text;
    return ids[0];
  }
  // Logits whose softmax is `mass`, the rest of it on `elsewhere`.
  std::vector<float> Logits(std::vector<std::pair<int32_t, double>> mass, int32_t elsewhere) {
    double rest = 1;
    for (auto [id, p] : mass) rest -= p;
    mass.emplace_back(elsewhere, rest);
    std::vector<float> out(tokenizer_->size(), -100.0f);
    for (auto [id, p] : mass) {
      if (p > 0) out[id] = static_cast<float>(std::log(p));
    }
    return out;
  }
  absl::StatusOr<model::Tokenizer> tokenizer_;
  std::unique_ptr<ListFates> fates_;
};

TEST_F(FirstListTest, ReadsTheForkOfTheFirstToken) {
  FirstList list(fates_.get());
  list.Observe(Logits({{Id("[]"), 0.2}, {Id("[{\""), 0.6}}, Id("a")), Id("[{\""));
  ASSERT_TRUE(list.log_probability_empty().has_value());
  EXPECT_NEAR(std::exp(*list.log_probability_empty()), 0.2 / 0.8, 1e-6);
}

TEST_F(FirstListTest, FollowsABracketThatStandsAlone) {
  FirstList list(fates_.get());
  list.Observe(Logits({{Id("[]"), 0.1}, {Id("["), 0.9}}, Id("a")), Id("["));
  EXPECT_FALSE(list.log_probability_empty().has_value());
  list.Observe(Logits({{Id("]"), 0.5}, {Id("{\""), 0.5}}, Id("a")), Id("]"));
  ASSERT_TRUE(list.log_probability_empty().has_value());
  EXPECT_NEAR(std::exp(*list.log_probability_empty()), 0.1 + 0.9 * 0.5, 1e-6);
}

TEST_F(FirstListTest, FollowsAFenceAndLooksOnlyAtTheFirstList) {
  FirstList list(fates_.get());
  for (int32_t id : tokenizer_->EncodeText("```json\n")) {
    list.Observe(Logits({{id, 1.0}}, Id("a")), id);
  }
  list.Observe(Logits({{Id("[]"), 0.25}, {Id("[{\""), 0.75}}, Id("a")), Id("[{\""));
  list.Observe(Logits({{Id("[]"), 1.0}}, Id("a")), Id("[]"));
  EXPECT_NEAR(std::exp(*list.log_probability_empty()), 0.25, 1e-6);
}

TEST_F(FirstListTest, SaysNothingAboutTextWithoutAList) {
  FirstList list(fates_.get());
  for (int i = 0; i < 200; ++i) list.Observe(Logits({{Id("a"), 1.0}}, Id("b")), Id("a"));
  list.Observe(Logits({{Id("[]"), 1.0}}, Id("b")), Id("[]"));
  EXPECT_FALSE(list.log_probability_empty().has_value());
}

TEST_F(FirstListTest, StaysFiniteWhenAnEmptyListIsImpossible) {
  FirstList list(fates_.get());
  std::vector<float> logits(tokenizer_->size(), -1e30f);
  logits[Id("[{\"")] = 0;
  list.Observe(logits, Id("[{\""));
  ASSERT_TRUE(list.log_probability_empty().has_value());
  EXPECT_TRUE(std::isfinite(*list.log_probability_empty()));
}

}  // namespace
}  // namespace chord::llm_worker
