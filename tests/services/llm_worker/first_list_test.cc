#include "services/llm_worker/first_list.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace chord::llm_worker {
namespace {

TEST(ClassifyToken, TellsTheEffectOfATokenOnTheFirstList) {
  using F = ListEffect;
  struct Row {
    const char* bytes;
    F before, after;
  };
  const Row rows[] = {
      {"[]", F::kEmpties, F::kFills},
      {"[{\"", F::kFills, F::kFills},
      {"[", F::kOpens, F::kFills},
      {" [\n", F::kOpens, F::kFills},
      {"[ ]", F::kEmpties, F::kFills},
      {"]", F::kNone, F::kEmpties},
      {"\n]", F::kNone, F::kEmpties},
      {"\n\t", F::kNone, F::kNone},
      {"```json\n[]", F::kEmpties, F::kFills},
      {"text", F::kNone, F::kFills},
      {"{", F::kNone, F::kFills},
      {"", F::kNone, F::kNone},
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
    effects_ = std::make_unique<ListEffects>(*tokenizer_, tokenizer_->size());
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
  // As the pipeline does: the engine reports the masses of the sets with the chosen token.
  static void Observe(FirstList& list, const std::vector<float>& logits, int32_t chosen) {
    std::vector<uint64_t> only((logits.size() + 63) / 64);
    only[static_cast<size_t>(chosen) / 64] = uint64_t{1} << (chosen % 64);
    const std::vector<engine::IdSet> sets = {list.empties(), list.fills()};
    engine::SampleSpec spec;
    spec.allowed = only;
    spec.mass_sets = sets;
    const engine::SampledToken token = engine::SampleToken(logits, spec);
    list.Observe(token.id, token.log_probability, token.log_mass[0], token.log_mass[1]);
  }
  absl::StatusOr<model::Tokenizer> tokenizer_;
  std::unique_ptr<ListEffects> effects_;
};

TEST_F(FirstListTest, ReadsTheDecisionOfTheFirstToken) {
  FirstList list(effects_.get());
  Observe(list, Logits({{Id("[]"), 0.2}, {Id("[{\""), 0.6}}, Id("a")), Id("[{\""));
  ASSERT_TRUE(list.log_probability_empty().has_value());
  EXPECT_NEAR(std::exp(*list.log_probability_empty()), 0.2 / 0.8, 1e-6);
}

TEST_F(FirstListTest, FollowsABracketThatStandsAlone) {
  FirstList list(effects_.get());
  Observe(list, Logits({{Id("[]"), 0.1}, {Id("["), 0.9}}, Id("a")), Id("["));
  EXPECT_FALSE(list.log_probability_empty().has_value());
  Observe(list, Logits({{Id("]"), 0.5}, {Id("{\""), 0.5}}, Id("a")), Id("]"));
  ASSERT_TRUE(list.log_probability_empty().has_value());
  EXPECT_NEAR(std::exp(*list.log_probability_empty()), 0.1 + 0.9 * 0.5, 1e-6);
}

TEST_F(FirstListTest, FollowsAFenceAndLooksOnlyAtTheFirstList) {
  FirstList list(effects_.get());
  for (int32_t id : tokenizer_->EncodeText("```json\n")) {
    Observe(list, Logits({{id, 1.0}}, Id("a")), id);
  }
  Observe(list, Logits({{Id("[]"), 0.25}, {Id("[{\""), 0.75}}, Id("a")), Id("[{\""));
  Observe(list, Logits({{Id("[]"), 1.0}}, Id("a")), Id("[]"));
  EXPECT_NEAR(std::exp(*list.log_probability_empty()), 0.25, 1e-6);
}

TEST_F(FirstListTest, GivesNoEvidenceForTextWithoutAList) {
  FirstList list(effects_.get());
  for (int i = 0; i < 200; ++i) Observe(list, Logits({{Id("a"), 1.0}}, Id("b")), Id("a"));
  Observe(list, Logits({{Id("[]"), 1.0}}, Id("b")), Id("[]"));
  EXPECT_FALSE(list.log_probability_empty().has_value());
}

TEST_F(FirstListTest, StaysFiniteWhenAnEmptyListIsImpossible) {
  FirstList list(effects_.get());
  std::vector<float> logits(tokenizer_->size(), -1e30f);
  logits[Id("[{\"")] = 0;
  Observe(list, logits, Id("[{\""));
  ASSERT_TRUE(list.log_probability_empty().has_value());
  EXPECT_TRUE(std::isfinite(*list.log_probability_empty()));
}

}  // namespace
}  // namespace chord::llm_worker
