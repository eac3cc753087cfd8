#include "services/llm_worker/decode_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "tests/services/llm_worker/fake_language_model.h"

namespace chord::llm_worker {
namespace {

constexpr int kVocab = 300;
const std::string kTokenizer = std::string(CHORD_SOURCE_DIR) + "/models/chord-nano/tokenizer.json";

// One request and what became of it.
struct Request {
  std::vector<int32_t> prompt;
  int max_new_tokens = 20;
  bool picture = false;
  CancelSource source;
  std::shared_ptr<Reservation> ticket;
  absl::Notification ended;
  absl::StatusOr<DecodeResult> result = absl::UnknownError("not ended");
  std::string streamed;
};

class DecodeLoopTest : public ::testing::Test {
 protected:
  DecodeLoopTest() : tokenizer_(model::Tokenizer::Load(kTokenizer)) {
    EXPECT_TRUE(tokenizer_.ok()) << tokenizer_.status();
    options_.eos_token_ids = {FakeLanguageModel::kEnd};
    options_.step = {/*prefill_tokens=*/16, /*prefill_tokens_beside_decode=*/5};
    options_.max_queue = 64;
  }

  void Start(int slots) {
    model_ = std::make_unique<FakeLanguageModel>(slots, 200, kVocab);
    loop_ = std::make_unique<DecodeLoop>(model_.get(), &*tokenizer_, options_);
  }

  std::shared_ptr<Request> Make(std::vector<int32_t> prompt, int max_new_tokens = 20) {
    auto request = std::make_shared<Request>();
    request->prompt = std::move(prompt);
    request->max_new_tokens = max_new_tokens;
    return request;
  }

  absl::Status Submit(const std::shared_ptr<Request>& request) {
    const auto n = static_cast<int>(request->prompt.size());
    EmbeddingShape shape;
    if (request->picture) shape = {{4, 4}, 4, 8, "m"};
    request->ticket = std::make_shared<Reservation>(NewTicketId(), shape, absl::InfiniteFuture(),
                                                    request->source);
    DecodeJob job;
    job.prompt.ids = request->prompt;
    for (size_t axis = 0; axis < 3; ++axis) {
      for (int i = 0; i < n; ++i) {
        job.prompt.positions.push_back(
            static_cast<int32_t>(i + FakeLanguageModel::PromptOffset(axis)));
      }
    }
    job.prompt.rope_delta = FakeLanguageModel::kRopeDelta;
    if (request->picture) job.prompt.images = {{1, {4, 4}, 4}};
    job.max_new_tokens = request->max_new_tokens;
    job.ticket = request->ticket;
    job.received = absl::Now();
    job.on_delta = [request](std::string text) { request->streamed += text; };
    job.on_end = [request](absl::StatusOr<DecodeResult> result) {
      request->result = std::move(result);
      request->ended.Notify();
    };
    return loop_->Submit(std::move(job));
  }
  void SendRows(Request& request) {
    ASSERT_TRUE(request.ticket->BeginReceive().ok());
    ASSERT_TRUE(request.ticket->Complete(std::make_unique<FakeLanguageModel::Rows>(4)).ok());
    loop_->Wake();
  }
  static bool Ends(Request& request) {
    return request.ended.WaitForNotificationWithTimeout(absl::Seconds(20));
  }
  // The answer of one sequence alone, straight from the model.
  std::vector<int32_t> Alone(const Request& request) {
    std::vector<int32_t> ids = request.prompt, out;
    for (int i = 0; request.picture && i < 4; ++i) ids[1 + i] = -1 - i;
    while (static_cast<int>(out.size()) < request.max_new_tokens) {
      out.push_back(model_->Next(ids));
      ids.push_back(out.back());
      if (out.back() == FakeLanguageModel::kEnd) break;
    }
    return out;
  }
  void ExpectIdle() {
    for (int i = 0; i < 2000 && loop_->counts().running + loop_->counts().queued > 0; ++i) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_EQ(loop_->counts().running, 0);
    EXPECT_EQ(loop_->counts().queued, 0);
    EXPECT_EQ(loop_->counts().tokens, 0);
  }

  absl::StatusOr<model::Tokenizer> tokenizer_;
  DecodeLoop::Options options_;
  std::unique_ptr<FakeLanguageModel> model_;
  std::unique_ptr<DecodeLoop> loop_;
};


TEST_F(DecodeLoopTest, AnswersOfManyTogetherEqualAnswersAlone) {
  std::mt19937 random(7);
  for (int slots : {1, 3, 8}) {
    Start(slots);
    std::vector<std::shared_ptr<Request>> requests;
    model_->gate_.Lock();  // all of them are there before many steps are over
    for (int i = 0; i < 40; ++i) {
      std::vector<int32_t> prompt(6 + random() % 60);
      for (int32_t& id : prompt) id = 20 + static_cast<int32_t>(random() % 200);
      auto request = Make(prompt, 1 + static_cast<int>(random() % 40));
      request->picture = random() % 2 == 0;
      requests.push_back(request);
      ASSERT_TRUE(Submit(request).ok());
    }
    for (auto& request : requests) {
      if (request->picture) SendRows(*request);
    }
    model_->gate_.Unlock();
    for (auto& request : requests) {
      ASSERT_TRUE(Ends(*request));
      ASSERT_TRUE(request->result.ok()) << request->result.status();
      EXPECT_EQ(request->result->ids, Alone(*request));
      EXPECT_EQ(request->result->text, request->streamed);
      EXPECT_EQ(request->result->cut, request->result->ids.back() != FakeLanguageModel::kEnd);
      EXPECT_EQ(request->result->decode_steps, static_cast<int>(request->result->ids.size()) - 1);
    }
    EXPECT_GE(model_->max_batch_, std::min(slots, 3)) << "slots run together";
    ExpectIdle();
  }
}

TEST_F(DecodeLoopTest, TokenEndsCoverTheTextAndProbabilitiesAreOfTheSoftmax) {
  Start(1);
  auto request = Make({20, 21, 22}, 30);
  ASSERT_TRUE(Submit(request).ok());
  ASSERT_TRUE(Ends(*request));
  ASSERT_TRUE(request->result.ok());
  const DecodeResult& result = *request->result;
  ASSERT_FALSE(result.token_ends.empty());
  EXPECT_EQ(result.token_ends.back(), static_cast<int>(result.text.size()));
  EXPECT_TRUE(std::is_sorted(result.token_ends.begin(), result.token_ends.end()));
  ASSERT_EQ(result.log_probabilities.size(), result.token_ends.size());
  const double expected = 5 - std::log(std::exp(5.0) + (kVocab - 1) * std::exp(1.0));
  for (double p : result.log_probabilities) EXPECT_NEAR(p, expected, 1e-9);
}

TEST_F(DecodeLoopTest, TheRepetitionPenaltyCountsPromptAndAnswerButNotTheProbability) {
  options_.repetition_penalty = 1e6f;  // a token that was seen is never taken again
  Start(1);
  auto request = Make({20, 21, 22, FakeLanguageModel::kNeverEnds}, 60);
  ASSERT_TRUE(Submit(request).ok());
  ASSERT_TRUE(Ends(*request));
  ASSERT_TRUE(request->result.ok());
  std::vector<int32_t> ids = request->result->ids;
  // The model wanted one of them again; the lowest id it had not seen is the end token.
  EXPECT_EQ(ids.back(), FakeLanguageModel::kEnd);
  EXPECT_LT(ids.size(), 60u);
  EXPECT_GT(ids.size(), 2u);
  ids.insert(ids.end(), request->prompt.begin(), request->prompt.end());
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(std::adjacent_find(ids.begin(), ids.end()), ids.end());
  const double expected = 5 - std::log(std::exp(5.0) + (kVocab - 1) * std::exp(1.0));
  for (double p : request->result->log_probabilities) EXPECT_NEAR(p, expected, 1e-9);
}

TEST_F(DecodeLoopTest, AStepThatFailsEndsOnlyTheRequestThatCannotRun) {
  std::vector<std::string> faults;
  options_.on_fault = [&](const std::string&, const absl::Status& s) {
    faults.emplace_back(s.message());
  };
  Start(4);
  auto bad = Make({20, FakeLanguageModel::kStepFails});
  auto nan = Make({20, FakeLanguageModel::kNotFinite});
  auto good = Make({20, 21, 22, FakeLanguageModel::kNeverEnds}, 50);
  auto better = Make({30, 31, 32, FakeLanguageModel::kNeverEnds}, 50);
  {
    absl::MutexLock hold(&model_->gate_);  // all of them meet in one step
    for (const auto& request : {good, bad, nan, better}) ASSERT_TRUE(Submit(request).ok());
    absl::SleepFor(absl::Milliseconds(20));
  }
  for (const auto& request : {good, bad, nan, better}) ASSERT_TRUE(Ends(*request));
  EXPECT_EQ(ErrorReason(bad->result.status()), "INTERNAL");
  EXPECT_TRUE(IsCatalogued(bad->result.status())) << "the engine's own words stay here";
  EXPECT_EQ(ErrorReason(nan->result.status()), "INTERNAL");
  ASSERT_TRUE(good->result.ok());
  EXPECT_EQ(good->result->ids, Alone(*good));
  ASSERT_TRUE(better->result.ok());
  EXPECT_EQ(better->result->ids, Alone(*better));
  ExpectIdle();
  loop_ = nullptr;
  EXPECT_GE(faults.size(), 2u);
}

TEST_F(DecodeLoopTest, RefusesWhatTheQueueCannotHoldWithATimeToWait) {
  options_.max_queue = 2;
  Start(1);
  std::vector<std::shared_ptr<Request>> held;
  for (int i = 0; i < 3; ++i) {
    auto request = Make({20, 21, 22, 23, 24, 25});
    request->picture = true;  // waits for rows that do not come
    ASSERT_TRUE(Submit(request).ok());
    held.push_back(request);
  }
  auto late = Make({20});
  const absl::Status status = Submit(late);
  EXPECT_EQ(ErrorReason(status), "OVERLOADED");
  EXPECT_GT(RetryAfter(status), absl::ZeroDuration());
  held[1]->source.Cancel();
  ASSERT_TRUE(Ends(*held[1]));
  EXPECT_TRUE(Submit(late).ok()) << "a place in the line is free again";
}

TEST_F(DecodeLoopTest, CancelFreesThePlaceInTheLineInTheSlotAndAmongTokens) {
  Start(1);
  auto waits_for_rows = Make({20, 21, 22, 23, 24, 25});
  waits_for_rows->picture = true;
  auto queued = Make({20});
  ASSERT_TRUE(Submit(waits_for_rows).ok());
  ASSERT_TRUE(Submit(queued).ok());
  queued->source.Cancel();
  ASSERT_TRUE(Ends(*queued));
  EXPECT_TRUE(absl::IsCancelled(queued->result.status()));
  waits_for_rows->source.Cancel(errors::WorkerLost("vision"));
  ASSERT_TRUE(Ends(*waits_for_rows));
  EXPECT_EQ(ErrorReason(waits_for_rows->result.status()), "WORKER_LOST");

  auto decoding = Make({20, FakeLanguageModel::kNeverEnds}, 190);
  {
    absl::MutexLock hold(&model_->gate_);
    ASSERT_TRUE(Submit(decoding).ok());
    decoding->source.Cancel();
  }
  const int steps = model_->steps_;
  ASSERT_TRUE(Ends(*decoding));
  EXPECT_FALSE(decoding->result.ok());
  EXPECT_LE(model_->steps_, steps + 2) << "no work after a cancel but the step under way";
  ExpectIdle();
}

TEST_F(DecodeLoopTest, ADeadlineEndsARequestWhereverItWaits) {
  Start(1);
  auto in_slot = Make({20, 21, 22, 23, 24, 25});
  in_slot->picture = true;
  in_slot->source = CancelSource(absl::Now() + absl::Milliseconds(30));
  auto in_line = Make({20});
  in_line->source = CancelSource(absl::Now() + absl::Milliseconds(20));
  ASSERT_TRUE(Submit(in_slot).ok());
  ASSERT_TRUE(Submit(in_line).ok());
  ASSERT_TRUE(Ends(*in_line));
  ASSERT_TRUE(Ends(*in_slot));
  EXPECT_EQ(ErrorReason(in_line->result.status()), "DEADLINE_EXCEEDED");
  EXPECT_EQ(ErrorReason(in_slot->result.status()), "DEADLINE_EXCEEDED");
  ExpectIdle();
}

TEST_F(DecodeLoopTest, EndsWhatIsLeftWhenItStops) {
  Start(1);
  auto in_slot = Make({20, 21, 22, 23, 24, 25});
  in_slot->picture = true;
  auto in_line = Make({20});
  ASSERT_TRUE(Submit(in_slot).ok());
  ASSERT_TRUE(Submit(in_line).ok());
  loop_ = nullptr;
  EXPECT_EQ(ErrorReason(in_slot->result.status()), "SHUTTING_DOWN");
  EXPECT_EQ(ErrorReason(in_line->result.status()), "SHUTTING_DOWN");
}

}  // namespace
}  // namespace chord::llm_worker
