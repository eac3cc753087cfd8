#include "services/llm_worker/token_pipeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace chord::llm_worker {
namespace {

using ::testing::ElementsAre;

constexpr int kVocab = 4096;

class TokenPipelineTest : public ::testing::Test {
 protected:
  TokenPipelineTest()
      : tokenizer_(model::Tokenizer::Load(std::string(CHORD_SOURCE_DIR) +
                                          "/models/chord-nano/tokenizer.json")) {
    EXPECT_TRUE(tokenizer_.ok()) << tokenizer_.status();
    effects_ = std::make_unique<ListEffects>(*tokenizer_, kVocab);
    auto grammar =
        grammar::BoxGrammar::Compile(*tokenizer_, kVocab, {tokenizer_->AddedTokenId("<|im_end|>")});
    EXPECT_TRUE(grammar.ok()) << grammar.status();
    grammar_ = *grammar;
  }
  TokenPipeline Make(float penalty, bool with_grammar,
                     const std::vector<int32_t>& prompt = {5, 6, 5}) {
    std::optional<grammar::BoxRequest> request;
    if (with_grammar) request = grammar::BoxRequest{448, 336, "find the red apple"};
    SamplingParams params;
    params.repetition_penalty = penalty;
    return TokenPipeline(params, effects_.get(), grammar_.get(), request, prompt);
  }
  void Write(TokenPipeline& pipeline, const std::string& text) {
    for (const int32_t id : tokenizer_->EncodeText(text)) pipeline.Accept(id);
  }
  int32_t Id(const std::string& text) {
    const auto ids = tokenizer_->EncodeText(text);
    EXPECT_EQ(ids.size(), 1u) << text;
    return ids[0];
  }

  absl::StatusOr<model::Tokenizer> tokenizer_;
  std::unique_ptr<ListEffects> effects_;
  std::shared_ptr<const grammar::BoxGrammar> grammar_;
};

TEST_F(TokenPipelineTest, EachRowPenalizesWhatPrecedesItOnce) {
  TokenPipeline pipeline = Make(1.5f, false);
  pipeline.Accept(7);
  std::vector<engine::SampleSpec> specs;
  const std::vector<int32_t> draft = {8, 6, 8, 9};
  pipeline.PrepareRows(draft, &specs);
  ASSERT_EQ(specs.size(), 5u);
  EXPECT_THAT(specs[0].penalized, ElementsAre(5, 6, 7));
  EXPECT_THAT(specs[1].penalized, ElementsAre(5, 6, 7, 8));
  EXPECT_THAT(specs[2].penalized, ElementsAre(5, 6, 7, 8));
  EXPECT_THAT(specs[3].penalized, ElementsAre(5, 6, 7, 8));
  EXPECT_THAT(specs[4].penalized, ElementsAre(5, 6, 7, 8, 9));
  EXPECT_EQ(specs[4].repetition_penalty, 1.5f);
  specs.clear();
  pipeline.PrepareRows({}, &specs);
  EXPECT_THAT(specs[0].penalized, ElementsAre(5, 6, 7)) << "draft tokens were not accepted";
}

// A row after draft tokens must have the mask and the sets of a pipeline that accepted them. Rows
// whose token the grammar appends by itself are not read.
TEST_F(TokenPipelineTest, ARowAfterDraftTokensEqualsTheRowOfAPipelineThatAcceptedThem) {
  const std::string begin = "[{\"bbox_2d\": [31, 102, 118, 190], \"label\": \"a\"}, {\"";
  TokenPipeline pipeline = Make(1.1f, true);
  Write(pipeline, begin);
  const std::vector<int32_t> draft = tokenizer_->EncodeText("bbox_2d\": [200, 7, 448");
  std::vector<engine::SampleSpec> rows;
  pipeline.PrepareRows(draft, &rows);
  ASSERT_EQ(rows.size(), draft.size() + 1);
  TokenPipeline accepted = Make(1.1f, true);
  Write(accepted, begin);
  std::vector<int32_t> jump;
  int unread = 0;
  for (size_t i = 0; i <= draft.size(); ++i) {
    if (i < draft.size() && !jump.empty() && jump.front() == draft[i]) {
      EXPECT_FALSE(rows[i].read) << i;
      ++unread;
      jump.erase(jump.begin());
      accepted.Accept(draft[i]);
      continue;
    }
    std::vector<engine::SampleSpec> one;
    accepted.PrepareRows({}, &one);
    EXPECT_TRUE(rows[i].read) << i;
    EXPECT_EQ(rows[i].expected, i < draft.size() ? draft[i] : -1) << i;
    EXPECT_EQ(rows[i].allowed, one[0].allowed) << i;
    EXPECT_EQ(rows[i].penalized, one[0].penalized) << i;
    ASSERT_EQ(rows[i].mass_sets.size(), one[0].mass_sets.size()) << i;
    for (size_t set = 0; set < one[0].mass_sets.size(); ++set) {
      EXPECT_EQ(rows[i].mass_sets[set], one[0].mass_sets[set]) << i;
    }
    if (i == draft.size()) break;
    accepted.Accept(draft[i]);
    jump = accepted.JumpForward();
  }
  EXPECT_GT(unread, 3);
}

TEST_F(TokenPipelineTest, ReadsTheListChoiceFromTheMasses) {
  TokenPipeline pipeline = Make(1.0f, true);
  Write(pipeline, "[");
  std::vector<engine::SampleSpec> specs;
  pipeline.PrepareRows({}, &specs);
  std::vector<float> logits(kVocab, -20);
  logits[Id("]")] = 1;
  logits[Id("{\"")] = 2;
  logits[Id("a")] = 3;  // not allowed, but part of the distribution
  auto choice = pipeline.Read(0, engine::SampleToken(logits, specs[0]));
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(choice->id, Id("{\""));
  ASSERT_TRUE(choice->list_choice.has_value());
  double all = 0, close = 0, more = 0;
  for (int32_t id = 0; id < kVocab; ++id) {
    all += std::exp(static_cast<double>(logits[id]));
  }
  close = std::exp(1.0);
  more = std::exp(2.0);
  EXPECT_EQ(choice->list_choice->offset, 1);
  EXPECT_NEAR(choice->list_choice->log_close, std::log(close / all), 1e-6);
  EXPECT_NEAR(choice->list_choice->log_more, std::log(more / all), 1e-6);
}

TEST_F(TokenPipelineTest, ReadsTheFirstListOfFreeText) {
  TokenPipeline pipeline = Make(1.0f, false);
  std::vector<engine::SampleSpec> specs;
  pipeline.PrepareRows({}, &specs);
  std::vector<float> logits(kVocab, -100);
  logits[Id("[]")] = std::log(0.25f);
  logits[Id("[{\"")] = std::log(0.75f);
  ASSERT_TRUE(pipeline.Read(0, engine::SampleToken(logits, specs[0])).ok());
  ASSERT_TRUE(pipeline.first_list().log_probability_empty().has_value());
  EXPECT_NEAR(std::exp(*pipeline.first_list().log_probability_empty()), 0.25, 1e-6);
}

TEST_F(TokenPipelineTest, RefusesLogitsThatAreNotFiniteAndMasksThatLeaveNoToken) {
  TokenPipeline pipeline = Make(1.0f, false);
  std::vector<engine::SampleSpec> specs;
  pipeline.PrepareRows({}, &specs);
  engine::SampledToken token;
  token.finite = false;
  EXPECT_FALSE(pipeline.Read(0, token).ok());
  EXPECT_FALSE(pipeline.Read(0, engine::SampledToken()).ok());
  token = engine::SampledToken();
  token.id = 3;
  EXPECT_FALSE(pipeline.Read(0, token).ok()) << "the masses are missing";
}

}  // namespace
}  // namespace chord::llm_worker
