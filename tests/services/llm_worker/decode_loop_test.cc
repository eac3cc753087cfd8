#include "services/llm_worker/decode_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "tests/services/llm_worker/fake_language_model.h"
#include "tests/support/has_reason.h"

namespace chord::llm_worker {
namespace {

constexpr int kVocab = 300;
const std::string kTokenizer = std::string(CHORD_SOURCE_DIR) + "/models/chord-nano/tokenizer.json";

// One request and what became of it.
struct Request {
  std::vector<int32_t> prompt;
  int max_new_tokens = 20;
  SamplingParams sampling;
  bool image = false;
  std::string key;  // of the image
  bool push_expected = true;
  std::optional<grammar::BoxRequest> grammar;
  std::vector<std::string> stop;
  std::optional<CacheTier> accepted;  // read after admitted or ended
  absl::Notification admitted;
  bool needs_embeddings = false;
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

  void Start(int slots, int pages = 0, int vocab = kVocab) {
    options_.max_sequences = slots;
    if (pages == 0) pages = slots * 200 / engine::kKvPageTokens + 1;
    model_ = std::make_unique<FakeLanguageModel>(pages, 200, vocab);
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
    if (request->image) shape = {{4, 4}, 4, 8, "m"};
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
    if (request->image) job.prompt.images = {{1, {4, 4}, 4}};
    job.max_new_tokens = request->max_new_tokens;
    job.sampling = request->sampling;
    job.ticket = request->ticket;
    job.image.key = request->key;
    job.push_expected = request->push_expected;
    job.grammar = request->grammar;
    job.stop = request->stop;
    job.on_accepted = [request](std::optional<CacheTier> from, bool needs_embeddings) {
      request->accepted = from;
      request->needs_embeddings = needs_embeddings;
      request->admitted.Notify();
      return absl::OkStatus();
    };
    job.received = absl::Now();
    job.on_delta = [request](std::string text) { request->streamed += text; };
    job.on_end = [request](absl::StatusOr<DecodeResult> result) {
      request->result = std::move(result);
      request->ended.Notify();
    };
    return loop_->Submit(std::move(job));
  }
  void SendEmbeddings(Request& request) {
    ASSERT_TRUE(request.ticket->BeginReceive().ok());
    ASSERT_TRUE(request.ticket->Complete(std::make_unique<FakeLanguageModel::Embeddings>(4)).ok());
    loop_->Wake();
  }
  static bool Ends(Request& request) {
    return request.ended.WaitForNotificationWithTimeout(absl::Seconds(20));
  }
  // The answer of one sequence alone, straight from the model.
  std::vector<int32_t> Alone(const Request& request) {
    std::vector<int32_t> ids = request.prompt, out;
    for (int i = 0; request.image && i < 4; ++i) ids[1 + i] = -1 - i;
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
    EXPECT_EQ(loop_->counts().kv.used, 0);
    EXPECT_EQ(loop_->counts().kv.reserved, 0);
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
      request->image = random() % 2 == 0;
      requests.push_back(request);
      ASSERT_TRUE(Submit(request).ok());
    }
    for (auto& request : requests) {
      if (request->image) SendEmbeddings(*request);
    }
    model_->gate_.Unlock();
    for (auto& request : requests) {
      ASSERT_TRUE(Ends(*request));
      ASSERT_TRUE(request->result.ok()) << request->result.status();
      EXPECT_EQ(request->result->ids, Alone(*request));
      EXPECT_EQ(request->result->text, request->streamed);
      EXPECT_EQ(request->result->truncated, request->result->ids.back() != FakeLanguageModel::kEnd);
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
  Start(1);
  auto request = Make({20, 21, 22, FakeLanguageModel::kNeverEnds}, 60);
  request->sampling.repetition_penalty = 1e6f;  // a token that was seen is never chosen again
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
  EXPECT_THAT(bad->result.status(), HasReason(Reason::kInternal));
  EXPECT_TRUE(IsCatalogued(bad->result.status())) << "the engine's own words stay here";
  EXPECT_THAT(nan->result.status(), HasReason(Reason::kInternal));
  ASSERT_TRUE(good->result.ok());
  EXPECT_EQ(good->result->ids, Alone(*good));
  ASSERT_TRUE(better->result.ok());
  EXPECT_EQ(better->result->ids, Alone(*better));
  ExpectIdle();
  loop_ = nullptr;
  EXPECT_GE(faults.size(), 2u);
}

TEST_F(DecodeLoopTest, RefusesOverTheQueueLimitWithATimeToWait) {
  options_.max_queue = 2;
  Start(1);
  std::vector<std::shared_ptr<Request>> held;
  for (int i = 0; i < 3; ++i) {
    auto request = Make({20, 21, 22, 23, 24, 25});
    request->image = true;  // waits for rows that do not come
    ASSERT_TRUE(Submit(request).ok());
    held.push_back(request);
  }
  auto late = Make({20});
  const absl::Status status = Submit(late);
  EXPECT_THAT(status, HasReason(Reason::kOverloaded));
  EXPECT_GT(RetryAfter(status), absl::ZeroDuration());
  held[1]->source.Cancel();
  ASSERT_TRUE(Ends(*held[1]));
  EXPECT_TRUE(Submit(late).ok()) << "the queue has room again";
}

TEST_F(DecodeLoopTest, CancelFreesTheQueueEntryTheSlotAndTheTokens) {
  Start(1);
  auto waits_for_embeddings = Make({20, 21, 22, 23, 24, 25});
  waits_for_embeddings->image = true;
  auto running = Make({20, FakeLanguageModel::kNeverEnds}, 190);
  auto queued = Make({20});
  ASSERT_TRUE(Submit(waits_for_embeddings).ok());
  {
    absl::MutexLock hold(&model_->gate_);
    ASSERT_TRUE(Submit(running).ok());
    ASSERT_TRUE(Submit(queued).ok());
    queued->source.Cancel();
    running->source.Cancel();
  }
  ASSERT_TRUE(Ends(*running));
  ASSERT_TRUE(Ends(*queued));
  EXPECT_TRUE(absl::IsCancelled(queued->result.status()));
  waits_for_embeddings->source.Cancel(errors::WorkerLost("vision"));
  ASSERT_TRUE(Ends(*waits_for_embeddings));
  EXPECT_THAT(waits_for_embeddings->result.status(), HasReason(Reason::kWorkerLost));

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
  auto for_embeddings = Make({20, 21, 22, 23, 24, 25});
  for_embeddings->image = true;
  for_embeddings->source = CancelSource(absl::Now() + absl::Milliseconds(30));
  auto in_slot = Make({20, FakeLanguageModel::kNeverEnds}, 190);
  in_slot->source = CancelSource(absl::Now() + absl::Milliseconds(30));
  auto in_queue = Make({20});
  in_queue->source = CancelSource(absl::Now() + absl::Milliseconds(20));
  ASSERT_TRUE(Submit(for_embeddings).ok());
  {
    absl::MutexLock hold(&model_->gate_);
    ASSERT_TRUE(Submit(in_slot).ok());
    ASSERT_TRUE(Submit(in_queue).ok());
    absl::SleepFor(absl::Milliseconds(60));
  }
  for (auto& request : {for_embeddings, in_slot, in_queue}) {
    ASSERT_TRUE(Ends(*request));
    EXPECT_THAT(request->result.status(), HasReason(Reason::kDeadlineExceeded));
  }
  ExpectIdle();
}

// The loop may be at any point between its look at the queue and its sleep when a request comes. A
// lost wake-up would leave the request waiting: the loop does not wake up by itself here.
TEST_F(DecodeLoopTest, ARequestIsSeenAtWhateverMomentItComes) {
  options_.expiry_interval = absl::InfiniteDuration();
  Start(2);
  for (int round = 0; round < 2000; ++round) {
    auto request = Make({20, 21}, 1);
    loop_->Wake();
    for (const absl::Time until = absl::Now() + absl::Nanoseconds(97 * (round % 1000));
         absl::Now() < until;) {
    }
    ASSERT_TRUE(Submit(request).ok());
    ASSERT_TRUE(Ends(*request));
    ASSERT_TRUE(request->result.ok());
  }
}

TEST_F(DecodeLoopTest, EndsWhatIsLeftWhenItStops) {
  options_.on_step = [](int, int, absl::Duration) { absl::SleepFor(absl::Milliseconds(20)); };
  Start(1);
  auto in_slot = Make({20, FakeLanguageModel::kNeverEnds}, 190);
  auto in_queue = Make({20});
  auto for_embeddings = Make({20, 21, 22, 23, 24, 25});
  for_embeddings->image = true;
  for (auto& request : {in_slot, in_queue, for_embeddings}) ASSERT_TRUE(Submit(request).ok());
  loop_ = nullptr;
  for (auto& request : {in_slot, in_queue, for_embeddings}) {
    EXPECT_THAT(request->result.status(), HasReason(Reason::kShuttingDown));
  }
}

class CachedImagesTest : public DecodeLoopTest {
 protected:
  std::shared_ptr<Request> Ask(char key, int number, bool push_expected = false) {
    std::vector<int32_t> prompt(40, 20);  // rows 1..4 are the image's
    for (int i = 30; i < 40; ++i) prompt[i] = 30 + number;
    auto request = Make(prompt, 20);
    request->image = true;
    request->key = std::string(32, key);
    request->push_expected = push_expected;
    EXPECT_TRUE(Submit(request).ok());
    return request;
  }
  void ExpectAnswered(Request& request, CacheTier from) {
    ASSERT_TRUE(Ends(request));
    ASSERT_TRUE(request.result.ok()) << request.result.status();
    EXPECT_EQ(request.result->ids, Alone(request));
    EXPECT_EQ(request.result->image, from);
    EXPECT_EQ(request.accepted, from);
  }
};

TEST_F(CachedImagesTest, ASecondRequestNeedsNeitherEmbeddingsNorTheImagesShareOfThePrefill) {
  Start(2);
  auto first = Ask('a', 1, /*push_expected=*/true);
  SendEmbeddings(*first);
  ExpectAnswered(*first, CacheTier::kNone);
  EXPECT_EQ(first->result->cached_tokens, 0);
  auto second = Ask('a', 2);
  ExpectAnswered(*second, CacheTier::kKv);
  EXPECT_FALSE(second->needs_embeddings);
  EXPECT_EQ(second->result->cached_tokens, 30) << "to the first word that differs";
  EXPECT_FALSE(second->ticket->BeginReceive().ok()) << "no writer was announced";
  auto other = Ask('b', 2);
  ASSERT_TRUE(other->admitted.WaitForNotificationWithTimeout(absl::Seconds(20)));
  EXPECT_TRUE(other->needs_embeddings) << "another image shares nothing";
  SendEmbeddings(*other);
  ExpectAnswered(*other, CacheTier::kNone);
  ExpectIdle();
}

TEST_F(CachedImagesTest, FallsBackToEmbeddingsWhenKvWasEvictedAndThenAsksForAPush) {
  Start(1, /*pages=*/13);
  auto first = Ask('a', 1, /*push_expected=*/true);
  SendEmbeddings(*first);
  ExpectAnswered(*first, CacheTier::kNone);
  std::vector<int32_t> endless(180, 25);
  endless[0] = FakeLanguageModel::kNeverEnds;
  auto large = Make(endless, 20);  // writes into every page
  ASSERT_TRUE(Submit(large).ok());
  ASSERT_TRUE(Ends(*large));
  ASSERT_TRUE(large->result.ok()) << large->result.status();
  auto second = Ask('a', 2);
  ExpectAnswered(*second, CacheTier::kEmbeddings);

  loop_->DropImage(std::string(32, 'a'));
  auto third = Ask('a', 3);
  ASSERT_TRUE(third->admitted.WaitForNotificationWithTimeout(absl::Seconds(20)));
  EXPECT_TRUE(third->needs_embeddings);
  SendEmbeddings(*third);
  ExpectAnswered(*third, CacheTier::kNone);
  ExpectIdle();
  EXPECT_EQ(loop_->counts().images, 1);
}

TEST_F(CachedImagesTest, RequestsThatComeTogetherComputeTheImageOnce) {
  Start(8);
  std::vector<std::shared_ptr<Request>> requests;
  requests.push_back(Ask('a', 0, /*push_expected=*/true));
  for (int i = 1; i < 6; ++i) requests.push_back(Ask('a', i));
  SendEmbeddings(*requests[0]);
  ExpectAnswered(*requests[0], CacheTier::kNone);
  for (int i = 1; i < 6; ++i) {
    ASSERT_TRUE(Ends(*requests[i]));
    ASSERT_TRUE(requests[i]->result.ok());
    EXPECT_EQ(requests[i]->result->ids, Alone(*requests[i]));
    EXPECT_FALSE(requests[i]->needs_embeddings);
    EXPECT_GE(requests[i]->result->cached_tokens, 5);
  }
  ExpectIdle();
}

TEST_F(CachedImagesTest, ASequenceWithItsOwnEmbeddingsDoesNotWaitForAPeers) {
  Start(2);
  auto stuck = Ask('a', 1, /*push_expected=*/true);
  auto second = Ask('a', 2, /*push_expected=*/true);
  SendEmbeddings(*second);
  ExpectAnswered(*second, CacheTier::kNone);
  ASSERT_TRUE(Ends(*stuck));
  ASSERT_TRUE(stuck->result.ok()) << stuck->result.status();
  EXPECT_EQ(stuck->result->ids, Alone(*stuck));
  EXPECT_EQ(stuck->result->image, CacheTier::kKv);
  ExpectIdle();
}

TEST_F(CachedImagesTest, ARunnableRequestDoesNotQueueBehindThoseThatWaitForTheVisionWorker) {
  Start(2);
  auto first = Ask('a', 1, /*push_expected=*/true);
  SendEmbeddings(*first);
  ExpectAnswered(*first, CacheTier::kNone);
  std::vector<std::shared_ptr<Request>> waiting;
  for (int i = 0; i < 6; ++i) waiting.push_back(Ask(static_cast<char>('b' + i), i, i % 2 == 0));
  auto without_key = Make(std::vector<int32_t>(40, 20));
  without_key->image = true;
  ASSERT_TRUE(Submit(without_key).ok());
  waiting.push_back(without_key);
  auto hot = Ask('a', 2);
  ExpectAnswered(*hot, CacheTier::kKv);
  EXPECT_EQ(loop_->counts().running, 0);
  EXPECT_EQ(loop_->counts().kv.reserved, 0) << "memory is for those that can run";
  for (auto& request : waiting) {
    ASSERT_TRUE(request->admitted.WaitForNotificationWithTimeout(absl::Seconds(20)));
    EXPECT_EQ(request->accepted, CacheTier::kNone);
    EXPECT_EQ(request->needs_embeddings, !request->push_expected)
        << "asked for before its turn comes";
  }
  for (auto& request : waiting) {
    SendEmbeddings(*request);
    ASSERT_TRUE(Ends(*request));
    ASSERT_TRUE(request->result.ok()) << request->result.status();
    EXPECT_EQ(request->result->ids, Alone(*request));
    EXPECT_EQ(request->result->image, CacheTier::kNone);
    EXPECT_GT(request->result->wait_embeddings, absl::ZeroDuration());
  }
  ExpectIdle();
}

TEST_F(CachedImagesTest, SeparatesTheWaitForEmbeddingsFromTheWaitForASlot) {
  Start(1);
  auto request = Ask('a', 1, /*push_expected=*/true);
  ASSERT_TRUE(request->admitted.WaitForNotificationWithTimeout(absl::Seconds(20)));
  absl::SleepFor(absl::Milliseconds(50));
  std::shared_ptr<Request> behind;
  {
    absl::MutexLock hold(&model_->gate_);
    SendEmbeddings(*request);
    for (int i = 0; i < 5000 && loop_->counts().running == 0; ++i) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    behind = Make({20, 21});
    ASSERT_TRUE(Submit(behind).ok());
    absl::SleepFor(absl::Milliseconds(50));
  }
  ASSERT_TRUE(Ends(*request));
  EXPECT_GE(request->result->wait_embeddings, absl::Milliseconds(50));
  EXPECT_LT(request->result->queue, request->result->wait_embeddings);
  ASSERT_TRUE(Ends(*behind));
  EXPECT_LT(behind->result->wait_embeddings, behind->result->queue);
  EXPECT_GE(behind->result->queue, absl::Milliseconds(50));
}

TEST_F(CachedImagesTest, AMissingPushIsAskedForOnce) {
  Start(4);
  std::vector<std::shared_ptr<Request>> requests;
  for (int i = 0; i < 3; ++i) requests.push_back(Ask('a', i));
  ASSERT_TRUE(requests[0]->admitted.WaitForNotificationWithTimeout(absl::Seconds(20)));
  EXPECT_TRUE(requests[0]->needs_embeddings);
  // The one that asked goes: another asks in its place.
  requests[0]->source.Cancel();
  ASSERT_TRUE(requests[1]->admitted.WaitForNotificationWithTimeout(absl::Seconds(20)));
  EXPECT_TRUE(requests[1]->needs_embeddings);
  EXPECT_FALSE(requests[2]->admitted.HasBeenNotified());
  SendEmbeddings(*requests[1]);
  ExpectAnswered(*requests[1], CacheTier::kNone);
  ExpectAnswered(*requests[2], CacheTier::kKv);
  EXPECT_FALSE(requests[2]->needs_embeddings);
  ASSERT_TRUE(Ends(*requests[0]));
  ExpectIdle();
}

TEST_F(CachedImagesTest, ANextTurnFindsTheAnswerBeforeIt) {
  Start(1);
  auto first = Ask('a', 1, /*push_expected=*/true);
  SendEmbeddings(*first);
  ASSERT_TRUE(Ends(*first));
  ASSERT_TRUE(first->result.ok());
  const std::vector<int32_t>& answer = first->result->ids;
  std::vector<int32_t> prompt = first->prompt;
  prompt.insert(prompt.end(), answer.begin(), answer.end());
  prompt.push_back(77);
  // Positions in the test's prompts are not those of generated tokens, so the answers may differ
  // from one made anew; what matters here is what was found.
  auto next = Make(prompt, 1);
  next->image = true;
  next->key = std::string(32, 'a');
  next->push_expected = false;
  ASSERT_TRUE(Submit(next).ok());
  ASSERT_TRUE(Ends(*next));
  ASSERT_TRUE(next->result.ok());
  EXPECT_EQ(next->result->cached_tokens, static_cast<int>(40 + answer.size() - 1));
}

TEST_F(CachedImagesTest, AnImageWithoutAKeyLeavesNothingBehind) {
  Start(1);
  auto request = Make(std::vector<int32_t>(40, 20));
  request->image = true;
  ASSERT_TRUE(Submit(request).ok());
  SendEmbeddings(*request);
  ASSERT_TRUE(Ends(*request));
  ASSERT_TRUE(request->result.ok());
  EXPECT_EQ(loop_->counts().kv.cached, 0);
  EXPECT_EQ(loop_->counts().images, 0);
}

TEST_F(DecodeLoopTest, RunningSequencesNeverWaitForMemory) {
  std::mt19937 random(3);
  Start(8, /*pages=*/20);  // for two or three of them
  std::vector<std::shared_ptr<Request>> requests;
  for (int i = 0; i < 30; ++i) {
    std::vector<int32_t> prompt(10 + random() % 60);
    for (int32_t& id : prompt) id = 20 + static_cast<int32_t>(random() % 200);
    requests.push_back(Make(prompt, 20 + static_cast<int>(random() % 60)));
    ASSERT_TRUE(Submit(requests.back()).ok());
  }
  for (auto& request : requests) {
    ASSERT_TRUE(Ends(*request));
    ASSERT_TRUE(request->result.ok()) << request->result.status();
    EXPECT_EQ(request->result->ids, Alone(*request));
  }
  ExpectIdle();
}

TEST_F(DecodeLoopTest, RefusesAtOnceWhatCannotBeAnsweredInTime) {
  Start(1);
  auto first = Make({20, 21, FakeLanguageModel::kNeverEnds}, 100);
  {
    absl::MutexLock hold(&model_->gate_);
    ASSERT_TRUE(Submit(first).ok());
    absl::SleepFor(absl::Milliseconds(300));  // it takes 0.3 s
  }
  ASSERT_TRUE(Ends(*first));
  absl::MutexLock hold(&model_->gate_);
  auto running = Make({20, 22});
  ASSERT_TRUE(Submit(running).ok());
  auto hurried = Make({20, 23});
  hurried->source = CancelSource(absl::Now() + absl::Milliseconds(150));
  const absl::Status status = Submit(hurried);
  EXPECT_THAT(status, HasReason(Reason::kOverloaded));
  EXPECT_GE(RetryAfter(status), absl::Milliseconds(100));
  auto patient = Make({20, 24});
  patient->source = CancelSource(absl::Now() + absl::Seconds(30));
  EXPECT_TRUE(Submit(patient).ok());
}

TEST_F(DecodeLoopTest, AdmitsABurstThatCanStartAtOnce) {
  Start(16);
  auto first = Make({20, 21, FakeLanguageModel::kNeverEnds}, 100);
  {
    absl::MutexLock hold(&model_->gate_);
    ASSERT_TRUE(Submit(first).ok());
    absl::SleepFor(absl::Milliseconds(300));  // it takes 0.3 s
  }
  ASSERT_TRUE(Ends(*first));
  std::vector<std::shared_ptr<Request>> burst;
  {
    absl::MutexLock hold(&model_->gate_);  // the loop is busy with the first of them
    for (int i = 0; i < 16; ++i) {
      burst.push_back(Make({20, 22 + i}));
      burst.back()->source = CancelSource(absl::Now() + absl::Milliseconds(800));
      const absl::Status status = Submit(burst.back());
      EXPECT_TRUE(status.ok()) << i << ": " << status;
      if (i == 0) absl::SleepFor(absl::Milliseconds(20));
    }
  }
  for (auto& request : burst) ASSERT_TRUE(Ends(*request));
}

// The model recites an answer in nano's tokens; what it does not recite is up to the grammar.
class GrammarLoopTest : public DecodeLoopTest {
 protected:
  static constexpr int kNanoVocab = 4096;
  GrammarLoopTest() {
    eos_ = tokenizer_->AddedTokenId("<|im_end|>");
    options_.eos_token_ids = {eos_};
    auto grammar = grammar::BoxGrammar::Compile(*tokenizer_, kNanoVocab, options_.eos_token_ids);
    EXPECT_TRUE(grammar.ok()) << grammar.status();
    grammar_ = *grammar;
    options_.grammar = grammar_.get();
  }
  std::shared_ptr<Request> Recite(const std::string& answer, bool grammar,
                                  int max_new_tokens = 150) {
    Start(2, 0, kNanoVocab);
    script_ = tokenizer_->EncodeWithAddedTokens(answer);
    script_.push_back(eos_);
    model_->script_ = [this](const std::vector<int32_t>& ids) {
      const size_t answered = ids.size() - 3;
      return answered < script_.size() ? script_[answered] : eos_;
    };
    auto request = Make({20, 21, 22}, max_new_tokens);
    if (grammar) request->grammar = grammar::BoxRequest{448, 336, "find the red apple"};
    EXPECT_TRUE(Submit(request).ok());
    EXPECT_TRUE(Ends(*request));
    EXPECT_TRUE(request->result.ok()) << request->result.status();
    return request;
  }
  int32_t eos_ = 0;
  std::shared_ptr<const grammar::BoxGrammar> grammar_;
  std::vector<int32_t> script_;
};

const char kTwoApples[] = R"([{"bbox_2d": [31, 102, 118, 190], "label": "red apple"}, )"
                          R"({"bbox_2d": [200, 7, 448, 336], "label": "red apple"}])";

TEST_F(GrammarLoopTest, GivesTheSameAnswerInFewerSteps) {
  auto without = Recite(kTwoApples, false);
  auto with = Recite(kTwoApples, true);
  EXPECT_EQ(with->result->text, kTwoApples);
  EXPECT_EQ(with->result->ids, without->result->ids);
  EXPECT_EQ(with->streamed, kTwoApples);
  EXPECT_TRUE(with->result->grammar);
  EXPECT_FALSE(without->result->grammar);
  EXPECT_EQ(without->result->decode_steps, static_cast<int>(without->result->ids.size()) - 1);
  EXPECT_LE(2 * with->result->decode_steps, without->result->decode_steps);
  EXPECT_EQ(with->result->token_ends, without->result->token_ends);
}

TEST_F(GrammarLoopTest, JumpForwardTokensAreMarkedAndChoicesReported) {
  auto request = Recite(kTwoApples, true);
  const DecodeResult& result = *request->result;
  ASSERT_EQ(result.jump_forward.size(), result.log_probabilities.size());
  for (size_t i = 0; i < result.jump_forward.size(); ++i) {
    if (result.jump_forward[i]) {
      EXPECT_EQ(result.log_probabilities[i], 0);
    }
  }
  ASSERT_EQ(result.choices.size(), 3u) << "before the first box, between them, after the last";
  EXPECT_GT(result.choices[0].log_more, result.choices[0].log_close);
  EXPECT_GT(result.choices[1].log_more, result.choices[1].log_close);
  EXPECT_LT(result.choices[2].log_more, result.choices[2].log_close);
  // Also where the token that decides begins in the label, the place is between the objects.
  EXPECT_EQ(result.choices[0].offset, 1);
  EXPECT_EQ(result.choices[1].offset, static_cast<int>(result.text.find(", {")));
  EXPECT_EQ(result.choices[2].offset, static_cast<int>(result.text.size()) - 1);
}

TEST_F(GrammarLoopTest, AnAnswerThatReachesTheLimitIsClosedAfterItsLastWholeBox) {
  auto request = Recite(kTwoApples, true, 40);
  EXPECT_TRUE(request->result->truncated);
  EXPECT_EQ(request->result->text, R"([{"bbox_2d": [31, 102, 118, 190], "label": "red apple"}])");
  ASSERT_FALSE(request->result->token_ends.empty());
  EXPECT_LE(request->result->token_ends.back(), static_cast<int>(request->result->text.size()));
  EXPECT_EQ(request->result->token_ends.size(), request->result->log_probabilities.size());
}

// A box whose four numbers are there counts, with the label as far as it came.
TEST_F(GrammarLoopTest, ATruncatedLabelIsClosedWhereItEnds) {
  const std::string answer = R"([{"bbox_2d": [31, 102, 118, 190], "label": "red apple"}])";
  const std::string whole_label = R"([{"bbox_2d": [31, 102, 118, 190], "label": "red apple)";
  const std::string cut = R"([{"bbox_2d": [31, 102, 118, 190], "label": "red)";
  const int tokens = static_cast<int>(tokenizer_->EncodeText(whole_label).size()) - 1;
  auto request = Recite(answer, true, tokens);
  const DecodeResult& result = *request->result;
  EXPECT_TRUE(result.truncated);
  EXPECT_FALSE(result.list_closed);
  EXPECT_EQ(result.text, cut + R"("}])");
  EXPECT_EQ(request->streamed, cut);
  EXPECT_EQ(result.token_ends.back(), static_cast<int>(cut.size()));
  ASSERT_FALSE(result.choices.empty());
  EXPECT_GT(result.choices[0].log_more, result.choices[0].log_close);
}

// An empty list is never closed in the model's name, and truncation is no evidence of absence.
TEST_F(GrammarLoopTest, AnAnswerTruncatedBeforeItsFirstBoxStaysAsItIs) {
  for (const std::string begin :
       {"[", R"([{"bbox_2d": [31, 102)", R"([{"bbox_2d": [31, 102, 118, 190)"}) {
    const int tokens = static_cast<int>(tokenizer_->EncodeText(begin).size());
    auto request = Recite(kTwoApples, true, tokens);
    const DecodeResult& result = *request->result;
    EXPECT_TRUE(result.truncated) << begin;
    EXPECT_FALSE(result.list_closed) << begin;
    EXPECT_EQ(result.text, request->streamed) << begin;
    EXPECT_EQ(result.text.find(']'), std::string::npos) << begin;
    EXPECT_FALSE(result.log_probability_empty.has_value()) << begin;
    EXPECT_TRUE(result.choices.empty()) << begin;
    EXPECT_EQ(result.token_ends.back(), static_cast<int>(result.text.size())) << begin;
  }
}

TEST_F(GrammarLoopTest, TellsWhetherTheModelClosedTheList) {
  EXPECT_TRUE(Recite(kTwoApples, true)->result->list_closed);
  EXPECT_TRUE(Recite("[]", true)->result->list_closed);
  EXPECT_FALSE(Recite(kTwoApples, true, 40)->result->list_closed);
  EXPECT_FALSE(Recite(kTwoApples, false)->result->list_closed) << "unknown in free text";
}

TEST_F(GrammarLoopTest, AnAnswerThatIsWholeAtTheLimitIsNotTruncated) {
  const int tokens = static_cast<int>(tokenizer_->EncodeText(kTwoApples).size());
  EXPECT_FALSE(Recite(kTwoApples, true, tokens)->result->truncated);
  EXPECT_TRUE(Recite(kTwoApples, true, tokens - 1)->result->truncated);
  EXPECT_TRUE(Recite(kTwoApples, false, tokens)->result->truncated) << "free text could go on";
  const std::string fenced = "```json\n[]\n```";
  const int before_fence = static_cast<int>(tokenizer_->EncodeText("```json\n[]").size());
  auto request = Recite(fenced, true, before_fence);
  EXPECT_FALSE(request->result->truncated);
  EXPECT_EQ(request->result->text, fenced);
}

TEST_F(GrammarLoopTest, TheEmptyListAndProseAreWhatTheyAre) {
  auto empty = Recite("[]", true);
  EXPECT_EQ(empty->result->text, "[]");
  ASSERT_TRUE(empty->result->log_probability_empty.has_value());
  EXPECT_GT(*empty->result->log_probability_empty, -0.1);
  auto prose = Recite("It is on the left.", true);
  EXPECT_EQ(prose->result->text, "It is on the left.");
  EXPECT_FALSE(prose->result->grammar);
}

TEST_F(GrammarLoopTest, MarkersOfBoxesAreTextOfTheAnswer) {
  const std::string answer =
      "<|object_ref_start|>cat<|object_ref_end|><|box_start|>[1,2],[3,4]<|box_end|>";
  for (const bool grammar : {false, true}) {
    auto request = Recite(answer, grammar);
    EXPECT_EQ(request->result->text, answer);
    EXPECT_EQ(request->streamed, answer);
    ASSERT_FALSE(request->result->token_ends.empty());
    EXPECT_EQ(request->result->token_ends.back(), static_cast<int>(answer.size()));
    EXPECT_FALSE(request->result->grammar);
  }
}

TEST_F(GrammarLoopTest, BoxesOutsideTheImageCannotBeWritten) {
  auto request = Recite(R"([{"bbox_2d": [831, 902, 118, 190], "label": "red apple"}])", true);
  EXPECT_TRUE(request->result->grammar);
  EXPECT_EQ(request->result->text.find("831"), std::string::npos);
}

TEST_F(DecodeLoopTest, DrawsTokensByTheirSeedWhateverElseRuns) {
  Start(4);
  const auto draw = [&](uint64_t seed) {
    auto request = Make({20, FakeLanguageModel::kNeverEnds}, 12);
    request->sampling.randomness = {.temperature = 10, .top_p = 1, .seed = seed};
    EXPECT_TRUE(Submit(request).ok());
    return request;
  };
  const auto alone = draw(1);
  ASSERT_TRUE(Ends(*alone));
  const std::vector<std::shared_ptr<Request>> together = {draw(2), draw(1), draw(3)};
  for (const auto& request : together) ASSERT_TRUE(Ends(*request));
  EXPECT_EQ(together[1]->result->ids, alone->result->ids);
  EXPECT_NE(together[0]->result->ids, alone->result->ids);
  EXPECT_NE(together[0]->result->ids, together[2]->result->ids);
  EXPECT_NE(alone->result->ids, Alone(*alone)) << "the temperature has no effect";
}

TEST_F(DecodeLoopTest, EndsBeforeAStopSequence) {
  Start(1);
  const auto whole = Make({20, FakeLanguageModel::kNeverEnds}, 20);
  ASSERT_TRUE(Submit(whole).ok());
  ASSERT_TRUE(Ends(*whole));
  const std::string& text = whole->result->text;
  ASSERT_GT(text.size(), 12u);
  const auto stopped = Make({20, FakeLanguageModel::kNeverEnds}, 20);
  stopped->stop = {"never in the answer", text.substr(text.size() / 2, 3)};
  stopped->sampling.top_tokens = 1;
  ASSERT_TRUE(Submit(stopped).ok());
  ASSERT_TRUE(Ends(*stopped));
  const DecodeResult& result = *stopped->result;
  EXPECT_EQ(result.text, text.substr(0, text.find(stopped->stop[1])));
  EXPECT_EQ(stopped->streamed, result.text);
  EXPECT_FALSE(result.truncated);
  EXPECT_LT(result.ids.size(), whole->result->ids.size());
  ASSERT_FALSE(result.token_ends.empty());
  EXPECT_EQ(result.token_ends.back(), static_cast<int32_t>(result.text.size()));
  EXPECT_EQ(result.log_probabilities.size(), result.token_ends.size());
  EXPECT_EQ(result.jump_forward.size(), result.token_ends.size());
  EXPECT_EQ(result.top.size(), result.token_ends.size());
  ExpectIdle();
}

TEST_F(DecodeLoopTest, StreamsAllTextWhereAStopSequenceOnlyBegins) {
  Start(1);
  const auto whole = Make({20, FakeLanguageModel::kNeverEnds}, 20);
  ASSERT_TRUE(Submit(whole).ok());
  ASSERT_TRUE(Ends(*whole));
  const std::string& text = whole->result->text;
  const auto request = Make({20, FakeLanguageModel::kNeverEnds}, 20);
  request->stop = {text.substr(text.size() - 2) + "never in the answer"};
  ASSERT_TRUE(Submit(request).ok());
  ASSERT_TRUE(Ends(*request));
  EXPECT_EQ(request->result->text, text);
  EXPECT_EQ(request->streamed, text);
}

TEST_F(DecodeLoopTest, ReportsTheMostProbableTokensAtEachPlace) {
  Start(1);
  const auto request = Make({20, FakeLanguageModel::kNeverEnds}, 8);
  request->sampling.top_tokens = 3;
  ASSERT_TRUE(Submit(request).ok());
  ASSERT_TRUE(Ends(*request));
  const DecodeResult& result = *request->result;
  ASSERT_EQ(result.top.size(), result.log_probabilities.size());
  for (size_t i = 0; i < result.top.size(); ++i) {
    ASSERT_EQ(result.top[i].size(), 3u);
    EXPECT_NEAR(result.top[i][0].log_probability, result.log_probabilities[i], 1e-9);
    EXPECT_GT(result.top[i][0].log_probability, result.top[i][1].log_probability);
  }
}

}  // namespace
}  // namespace chord::llm_worker
