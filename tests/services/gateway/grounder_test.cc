// The core against workers by script, over real sockets.
#include "services/gateway/grounder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/match.h"
#include "absl/synchronization/notification.h"
#include "common/base/errors.h"
#include "common/image/image.h"
#include "tests/services/gateway/fake_workers.h"
#include "tests/support/has_reason.h"

namespace chord::gateway {
namespace {

using ::testing::ElementsAre;
using testing::FakeLanguage;
using testing::FakeVision;
using testing::FakeWorker;
using testing::Lost;
namespace v1 = internal::v1;

std::string Png(int width = 64, int height = 48, uint8_t shade = 99) {
  image::RgbImage image;
  image.width = width;
  image.height = height;
  image.rgb.assign(static_cast<size_t>(width * height * 3), shade);
  const auto png = image::EncodePng(image);
  return {png->begin(), png->end()};
}

// Until `condition`, or the test fails.
template <typename Condition>
void Await(Condition condition) {
  bool met = false;  // it may have effects, so it is not asked again
  for (int i = 0; i < 1000 && !(met = condition()); ++i) absl::SleepFor(absl::Milliseconds(10));
  ASSERT_TRUE(met);
}

class GrounderTest : public ::testing::Test {
 protected:
  void Start(int language_workers = 1) {
    for (int i = 0; i < language_workers; ++i) {
      language_.push_back(
          std::make_unique<FakeWorker<FakeLanguage>>(v1::WorkerState::ROLE_LANGUAGE, rows_));
    }
    WorkerPool::Options pool = PoolOptions();
    for (int i = 0; i < language_workers; ++i) {
      pool.language.push_back({absl::StrCat("l", i), language(i).address()});
    }
    StartWith(std::move(pool));
  }
  WorkerPool::Options PoolOptions() {
    WorkerPool::Options pool;
    pool.fingerprint = "model";
    pool.heartbeat = absl::Milliseconds(100);
    pool.vision.push_back({"v", vision_.address()});
    return pool;
  }
  void StartWith(WorkerPool::Options pool) {
    pool_ = WorkerPool::Start(std::move(pool));
    ImageService::Options images;
    images.fingerprint = "model";
    images.store = {store_bytes_, store_ttl_};
    images.sweep_every = absl::Milliseconds(20);
    image_service_ = std::make_unique<ImageService>(images, *pool_, metrics_);
    Grounder::Options options;
    options.fingerprint = "model";
    options.model_name = "fake";
    options.max_prompt_bytes = 4096;
    options.default_new_tokens = 64;
    options.max_new_tokens = 512;
    options.default_deadline = absl::Seconds(20);
    options.max_deadline = absl::Seconds(20);
    options.worker_wait = absl::Seconds(5);
    options.retry_burst = retry_burst_;
    options.style.label_passes = label_passes_;
    grounder_ = std::make_unique<Grounder>(options, admission_, *image_service_, *pool_, metrics_,
                                           executor_);
  }

  GroundInput Input(absl::string_view image, const std::string& image_id = "") {
    GroundInput input;
    input.request_id = "req";
    input.client = "1.2.3.4";
    input.image = image;
    input.image_id = image_id;
    input.prompt = "the thing";
    input.received_at = absl::Now();
    return input;
  }
  absl::StatusOr<GroundResult> Send(absl::string_view image, const std::string& image_id = "",
                                    const std::string& session = "", const std::string& what = "") {
    GroundInput input = Input(image, image_id);
    input.session_id = session;
    if (!what.empty()) input.prompt = what;
    return grounder_->Ground(input);
  }
  FakeWorker<FakeLanguage>& language(int i = 0) { return *language_[static_cast<size_t>(i)]; }
  std::string Metric(const std::string& series) {
    const std::string text = metrics_.Serialize();
    const size_t at = text.find("\n" + series + " ");
    if (at == text.npos) return "";
    const size_t value = at + series.size() + 2;
    return text.substr(value, text.find('\n', value) - value);
  }

  const std::string png_ = Png();
  int64_t store_bytes_ = 1 << 20;
  absl::Duration store_ttl_ = absl::Minutes(1);
  double retry_burst_ = 10;
  LabelPasses label_passes_ = LabelPasses::kOne;
  testing::Rows rows_;
  FakeWorker<FakeVision> vision_{v1::WorkerState::ROLE_VISION, rows_};
  std::vector<std::unique_ptr<FakeWorker<FakeLanguage>>> language_;
  obs::Metrics metrics_{obs::Role::kGateway, "1"};
  Admission admission_{{64, 32, 256 << 20}};
  Executor executor_{16, 32};
  std::unique_ptr<WorkerPool> pool_;
  std::unique_ptr<ImageService> image_service_;
  std::unique_ptr<Grounder> grounder_;
};

TEST_F(GrounderTest, TheSecondRequestNeedsNoEncode) {
  Start();
  const auto first = Send(png_);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->usage.image, CacheTier::kNone);
  EXPECT_GT(first->timing.vision, absl::ZeroDuration());
  ASSERT_TRUE(IsImageId(first->image_id));
  const auto second = Send("", first->image_id);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->usage.image, CacheTier::kKv);
  EXPECT_EQ(second->timing.vision, absl::ZeroDuration());
  EXPECT_EQ(second->image_id, first->image_id);
  EXPECT_EQ(second->objects.size(), 1u);
  EXPECT_EQ(vision_->headers().size(), 1u);
  const auto requests = language()->requests();
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_TRUE(requests[0].uses(0).pushed());
  EXPECT_FALSE(requests[1].uses(0).pushed());
  EXPECT_EQ(requests[0].uses(0).key(), requests[1].uses(0).key());
  EXPECT_EQ(requests[0].uses(0).key().size(), 32u);
  EXPECT_EQ(requests[0].uses(0).keep_seconds(), 60);
  EXPECT_EQ(Metric("chord_image_cache_requests_total{cache=\"kv\"}"), "1");
  EXPECT_EQ(Metric("chord_image_store_images"), "1");
}

TEST_F(GrounderTest, EmbeddingsThatAreKeptAreNamed) {
  Start();
  const auto first = Send(png_);
  ASSERT_TRUE(first.ok());
  language()->SetKept(v1::CACHE_TIER_EMBEDDINGS);
  const auto second = Send("", first->image_id);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->usage.image, CacheTier::kEmbeddings);
}

TEST_F(GrounderTest, AnImageThatItsWorkerEvictedIsEncodedUnderTheSameTicket) {
  Start();
  const auto first = Send(png_);
  ASSERT_TRUE(first.ok());
  language()->SetKept(v1::CACHE_TIER_NONE);  // evicted there
  const auto second = Send("", first->image_id);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->usage.image, CacheTier::kNone);
  const auto headers = vision_->headers();
  const auto requests = language()->requests();
  ASSERT_EQ(headers.size(), 2u);
  EXPECT_FALSE(requests[1].uses(0).pushed());
  EXPECT_EQ(headers[1].ticket().id(), requests[1].ticket().id());
  EXPECT_EQ(headers[1].target(), "l0");
  EXPECT_EQ(Send("", first->image_id)->usage.image, CacheTier::kKv) << "and is there again";
}

TEST_F(GrounderTest, LabelsAreOnePromptForAModelThatKeepsThemApart) {
  Start();
  language()->SetAnswer(R"([{"bbox_2d": [1, 2, 30, 40], "label": "cup"}])");
  GroundInput input = Input(png_);
  input.prompt.clear();
  input.labels = {"cup", "plate"};
  const auto result = grounder_->Ground(input);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(language()->requests().size(), 1u);
  ASSERT_EQ(result->labels.size(), 2u);
  EXPECT_THAT(result->labels[0].objects, ElementsAre(0));
  EXPECT_EQ(result->labels[0].confidence, result->objects[0].confidence);
  EXPECT_THAT(result->labels[1].objects, ElementsAre());
  EXPECT_EQ(result->labels[1].confidence, std::nullopt) << "one answer for all does not tell";
  language()->SetAnswer("[]");
  const auto nothing = grounder_->Ground(input);
  ASSERT_TRUE(nothing.ok());
  EXPECT_EQ(nothing->labels[1].confidence, nothing->confidence);
}

// Also where the image came with the request, and where there is no room to store it.
TEST_F(GrounderTest, LabelsAreAPromptEachOverOneEncodingForAModelThatDoesNot) {
  label_passes_ = LabelPasses::kPerLabel;
  for (const int64_t store_bytes : {1 << 20, 100}) {
    store_bytes_ = store_bytes;
    if (pool_ == nullptr) {
      Start();
    } else {
      WorkerPool::Options pool = PoolOptions();
      pool.language.push_back({"l0", language().address()});
      grounder_ = nullptr;
      image_service_ = nullptr;
      StartWith(std::move(pool));
    }
    language()->SetAnswerTo("cup", R"([{"bbox_2d": [1, 2, 30, 40], "label": "cup"},
                                       {"bbox_2d": [5, 2, 30, 40], "label": "mug"}])");
    language()->SetAnswerTo("plate", "[]");
    language()->SetAnswerTo("spoon", R"([{"bbox_2d": [9, 2, 30, 40], "label": "spoon"}])");
    GroundInput input = Input(png_);
    input.prompt.clear();
    input.labels = {"cup", "plate", "spoon"};
    const size_t encoded = vision_->headers().size(), asked = language()->requests().size();
    const auto result = grounder_->Ground(input);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(vision_->headers().size(), encoded + 1);
    EXPECT_EQ(language()->requests().size(), asked + 3);
    ASSERT_EQ(result->labels.size(), 3u);
    EXPECT_THAT(result->labels[0].objects, ElementsAre(0, 1)) << "whatever the model calls them";
    EXPECT_THAT(result->labels[1].objects, ElementsAre());
    EXPECT_THAT(result->labels[2].objects, ElementsAre(2));
    for (const LabelMatch& match : result->labels) EXPECT_TRUE(match.confidence) << match.label;
    EXPECT_EQ(result->usage.prompt_tokens, 150);
    EXPECT_EQ(result->image_id.empty(), store_bytes == 100);
  }
  Await([&] { return language()->dropped().size() >= 1; });  // of the second
}

// Each waits until all are there: in a row they would not be answered.
TEST_F(GrounderTest, PromptsOfLabelsRunTogether) {
  label_passes_ = LabelPasses::kPerLabel;
  Start();
  ASSERT_TRUE(Send(png_).ok());
  language()->SetScript([&](const v1::DecodeRequest& request, auto&) {
    if (request.uses(0).pushed()) return grpc::Status::OK;  // the first takes the image there
    for (int i = 0; i < 500 && language()->requests().size() < 1 + 4; ++i) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    return language()->requests().size() < 1 + 4 ? Lost() : grpc::Status::OK;
  });
  GroundInput input = Input(png_);
  input.prompt.clear();
  input.labels = {"a", "b", "c", "d"};
  const auto result = grounder_->Ground(input);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->objects.size(), 4u);
}

TEST_F(GrounderTest, WhatLabelsTellWhileTheyAreDecodedIsInTheirOrder) {
  label_passes_ = LabelPasses::kPerLabel;
  Start();
  GroundInput input = Input(png_);
  input.prompt.clear();
  input.labels = {"one", "two", "three", "four", "five", "six", "seven", "eight", "nine"};
  std::string expected;
  for (size_t i = 0; i < input.labels.size(); ++i) {
    const std::string text =
        absl::StrCat(R"([{"bbox_2d": [1, 1, )", 10 + i, R"(, 30], "label": "x"}])");
    language()->SetAnswerTo(" " + input.labels[i], text);
    absl::StrAppend(&expected, i > 0 ? "\n" : "", text);
  }
  std::string words;
  std::vector<image::Box> boxes;
  input.on_delta = [&](absl::string_view text) { words += std::string(text); };
  input.on_object = [&](const GroundObject& object) { boxes.push_back(object.box); };
  const auto result = grounder_->Ground(input);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(words, expected);
  EXPECT_EQ(words, result->model_text);
  ASSERT_EQ(boxes.size(), result->objects.size());
  for (size_t i = 0; i < boxes.size(); ++i) EXPECT_EQ(boxes[i], result->objects[i].box);
}

TEST_F(GrounderTest, ALabelThatFailsEndsTheRequestWithItsReason) {
  label_passes_ = LabelPasses::kPerLabel;
  Start();
  language()->SetScript([](const v1::DecodeRequest& request, auto&) {
    const bool bad = request.turns(0).parts(1).text() == "find every b";
    return bad ? rpc::ToGrpc(errors::PromptTokensLimit(9, 8)) : grpc::Status::OK;
  });
  GroundInput input = Input(png_);
  input.prompt.clear();
  input.labels = {"a", "b", "c"};
  EXPECT_EQ(ErrorReason(grounder_->Ground(input).status()), "PROMPT_TOO_MANY_TOKENS");
  EXPECT_EQ(admission_.in_flight(), 0);
  input.labels = {"b", "a", "c"};  // also when it is the one that brings the image
  EXPECT_EQ(ErrorReason(grounder_->Ground(input).status()), "PROMPT_TOO_MANY_TOKENS");
}

TEST_F(GrounderTest, LabelsAreTurnsOfTheirConversation) {
  label_passes_ = LabelPasses::kPerLabel;
  Start();
  GroundInput input = Input(png_);
  input.prompt.clear();
  input.session_id = "chat";
  input.labels = {"cup", "plate"};
  const auto first = grounder_->Ground(input);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(Send("", first->image_id, "chat", "the left one").ok());
  const auto turns = language()->requests().back().turns();
  ASSERT_EQ(turns.size(), 5);
  EXPECT_EQ(turns[0].parts(1).text(), "find every cup");
  EXPECT_EQ(turns[2].parts(0).text(), "find every plate");
  EXPECT_EQ(turns[4].parts(0).text(), "the left one");
}

TEST_F(GrounderTest, AWorkerThatKnowsNothingOfKeptImagesGetsTheRowsEachTime) {
  Start();
  language()->SetKnowsUses(false);
  const auto first = Send(png_);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = Send("", first->image_id);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->usage.image, CacheTier::kNone);
  EXPECT_EQ(vision_->headers().size(), 2u);
}

TEST_F(GrounderTest, AnOlderReleaseThatTookTheWorkersPlaceGetsRowsAfterAll) {
  Start();
  const auto first = Send(png_);
  language()->SetKnowsUses(false);
  const auto second = Send("", first->image_id);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_FALSE(language()->requests()[1].uses(0).pushed());
  EXPECT_EQ(second->usage.image, CacheTier::kNone);
}

TEST_F(GrounderTest, RowsThatTurnOutNotToBeNeededAreCalledOff) {
  Start();
  const auto kept = image_service_->Upload(png_, false);
  ASSERT_TRUE(kept.ok());
  ASSERT_TRUE(Send("", kept->id).ok());
  image_service_->SetAffinity(kept->id, {"l0", 999, true});  // another epoch: it is not believed
  auto go = std::make_shared<absl::Notification>();
  vision_->SetScript([go] {
    go->WaitForNotification();
    return grpc::Status(grpc::StatusCode::INTERNAL, "late");
  });
  const auto second = Send("", kept->id);
  go->Notify();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE(language()->requests()[1].uses(0).pushed());
  EXPECT_EQ(second->usage.image, CacheTier::kKv);
}

TEST_F(GrounderTest, RequestsGoWhereTheImageIsWhateverTheLoad) {
  Start(3);
  const auto first = Send(png_);
  ASSERT_TRUE(first.ok());
  int affinity = 0;
  for (int i = 0; i < 3; ++i) {
    if (!language(i)->requests().empty()) affinity = i;
  }
  language(affinity).status().SetLoad(100'000);
  Await([&] {  // the load is known, and new images go to quieter ones
    const size_t before = language(affinity)->requests().size();
    return Send(Png(64, 48, 1)).ok() && language(affinity)->requests().size() == before;
  });
  const size_t before = language(affinity)->requests().size();
  for (int i = 0; i < 6; ++i) EXPECT_EQ(Send("", first->image_id)->usage.image, CacheTier::kKv);
  EXPECT_EQ(language(affinity)->requests().size(), before + 6);
}

TEST_F(GrounderTest, TheSameFileOfTwoClientsSharesNothing) {
  Start();
  const auto one = Send(png_), other = Send(png_);
  EXPECT_NE(one->image_id, other->image_id);
  EXPECT_EQ(other->usage.image, CacheTier::kNone);
  const auto requests = language()->requests();
  EXPECT_NE(requests[0].uses(0).key(), requests[1].uses(0).key());
}

TEST_F(GrounderTest, WorkersForgetWhatIsDeletedOrExpired) {
  store_ttl_ = absl::Seconds(3);
  Start();
  const auto first = Send(png_), second = Send(png_);
  const auto requests = language()->requests();
  ASSERT_TRUE(image_service_->Delete(first->image_id).ok());
  EXPECT_THAT(Send("", first->image_id).status(), HasReason(Reason::kImageIdUnknown));
  EXPECT_THAT(image_service_->Delete(first->image_id), HasReason(Reason::kImageIdUnknown));
  Await([&] { return language()->dropped().size() == 2; });
  EXPECT_THAT(language()->dropped(),
              ElementsAre(requests[0].uses(0).key(), requests[1].uses(0).key()));
  EXPECT_THAT(image_service_->Touch(second->image_id).status(), HasReason(Reason::kImageIdUnknown));
  EXPECT_EQ(Metric("chord_image_store_total{event=\"deleted\"}"), "1");
  EXPECT_EQ(Metric("chord_image_store_total{event=\"expired\"}"), "1");
  EXPECT_EQ(Metric("chord_image_store_bytes"), "0");
}

TEST_F(GrounderTest, AFailedRequestKeepsNothing) {
  Start();
  language()->SetScript(
      [](const auto&, auto&) { return rpc::ToGrpc(errors::PromptTokensLimit(9, 8)); });
  EXPECT_THAT(Send(png_, "", "s").status(), HasReason(Reason::kPromptTooManyTokens));
  EXPECT_EQ(Metric("chord_image_store_images"), "0");
  EXPECT_EQ(image_service_->sessions().size(), 0);
  EXPECT_EQ(admission_.in_flight(), 0);
}

TEST_F(GrounderTest, AImageThatIsTooBigForTheStoreIsAnsweredAndNotKept) {
  store_bytes_ = 100;
  Start();
  const auto result = Send(png_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->image_id, "");
  EXPECT_EQ(language()->requests()[0].uses_size(), 0);
  EXPECT_THAT(Send(png_, "", "s").status(), HasReason(Reason::kImageTooManyBytes))
      << "a conversation needs its image";
}

TEST_F(GrounderTest, ConversationsAreSentWordForWord) {
  Start();
  language()->SetAnswer(R"([{"bbox_2d": [1, 2, 30, 40], "label": " odd  \"text\""}])");
  const auto first = Send(png_, "", "chat", "one");
  ASSERT_TRUE(first.ok()) << first.status();
  language()->SetAnswer("[]");
  ASSERT_TRUE(Send("", first->image_id, "chat", "two").ok());
  ASSERT_TRUE(Send("", first->image_id, "other", "three").ok());
  ASSERT_TRUE(Send("", first->image_id, "chat", "four").ok());
  const auto requests = language()->requests();
  ASSERT_EQ(requests.size(), 4u);
  EXPECT_EQ(requests[2].turns_size(), 1) << "another conversation";
  const auto& turns = requests[3].turns();
  ASSERT_EQ(turns.size(), 5);
  const char* roles[] = {"user", "assistant", "user", "assistant", "user"};
  for (int i = 0; i < 5; ++i) EXPECT_EQ(turns[i].role(), roles[i]);
  ASSERT_EQ(turns[0].parts_size(), 2);
  EXPECT_TRUE(turns[0].parts(0).has_image());
  EXPECT_EQ(turns[0].parts(1).text(), "one");
  EXPECT_EQ(turns[1].parts(0).text(),
            R"([{"bbox_2d": [1, 2, 30, 40], "label": " odd  \"text\""}])");
  EXPECT_EQ(turns[2].parts(0).text(), "two");
  EXPECT_EQ(turns[2].parts_size(), 1) << "the image comes once";
  EXPECT_EQ(turns[3].parts(0).text(), "[]");
  EXPECT_EQ(turns[4].parts(0).text(), "four");
  EXPECT_EQ(Metric("chord_session_total{event=\"created\"}"), "2");
  EXPECT_EQ(Metric("chord_session_total{event=\"hit\"}"), "2");
}

TEST_F(GrounderTest, AClientMaySendItsImageWithEachRequestOfAConversation) {
  Start();
  const auto first = Send(png_, "", "chat", "one");
  const auto second = Send(png_, "", "chat", "two");
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->image_id, first->image_id);
  EXPECT_EQ(second->usage.image, CacheTier::kKv);
  EXPECT_EQ(language()->requests()[1].turns_size(), 3);
  GroundInput stranger = Input(png_);
  stranger.client = "5.6.7.8";
  stranger.session_id = "chat";
  const auto third = grounder_->Ground(stranger);
  ASSERT_TRUE(third.ok());
  EXPECT_NE(third->image_id, first->image_id) << "another client's";
  EXPECT_EQ(language()->requests()[2].turns_size(), 1);
  ASSERT_TRUE(Send(Png(64, 48, 1), "", "chat", "three").ok());
  EXPECT_EQ(language()->requests()[3].turns_size(), 1) << "another image, another conversation";
}

TEST_F(GrounderTest, AConversationThatOutgrowsTheModelForgetsItsBeginning) {
  Start();
  const auto first = Send(png_, "", "chat", "0");
  for (const char* what : {"1", "2", "3"})
    ASSERT_TRUE(Send("", first->image_id, "chat", what).ok());
  language()->SetScript([](const v1::DecodeRequest& request, auto&) {
    return request.turns_size() > 5 ? rpc::ToGrpc(errors::ContextLimit(9, 8)) : grpc::Status::OK;
  });
  ASSERT_TRUE(Send("", first->image_id, "chat", "4").ok());
  auto requests = language()->requests();
  ASSERT_EQ(requests.back().turns_size(), 5);
  EXPECT_EQ(requests.back().turns(0).parts(1).text(), "2");
  EXPECT_TRUE(requests.back().turns(0).parts(0).has_image());
  const size_t before = requests.size();
  language()->SetScript(nullptr);
  ASSERT_TRUE(Send("", first->image_id, "chat", "5").ok());
  requests = language()->requests();
  EXPECT_EQ(requests.size(), before + 1) << "it is not tried again with what did not fit";
  EXPECT_EQ(requests.back().turns_size(), 7);
}

TEST_F(GrounderTest, TheSwitchOfTheGrammarIsHandedOn) {
  Start();
  GroundInput input = Input(png_);
  ASSERT_TRUE(grounder_->Ground(input).ok());
  input.grammar = false;
  ASSERT_TRUE(grounder_->Ground(input).ok());
  EXPECT_TRUE(language()->requests()[0].grammar());
  EXPECT_FALSE(language()->requests()[1].grammar());
}

TEST_F(GrounderTest, ALostWorkerIsReplacedByAnother) {
  Start(2);
  for (int i = 0; i < 2; ++i) {
    language(i)->SetScript([&, i](const v1::DecodeRequest&, auto&) {
      language(i)->SetScript(nullptr);
      language(1 - i)->SetScript(nullptr);
      return Lost();
    });
  }
  const auto result = Send(png_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(language(0)->requests().size(), 1u);
  EXPECT_EQ(language(1)->requests().size(), 1u);
  EXPECT_NE(language(0)->requests()[0].ticket().id(), language(1)->requests()[0].ticket().id());
  EXPECT_EQ(Metric("chord_retries_total{outcome=\"answered\"}"), "1");
}

TEST_F(GrounderTest, WithoutAnotherWorkerTheLossIsTold) {
  Start();
  language()->SetScript([](const auto&, auto&) { return Lost(); });
  // And not DEADLINE_EXCEEDED: another worker is not waited for.
  EXPECT_THAT(Send(png_).status(), HasReason(Reason::kWorkerLost));
  EXPECT_EQ(language()->requests().size(), 1u);
  EXPECT_EQ(Metric("chord_retries_total{outcome=\"no_worker\"}"), "1");
}

TEST_F(GrounderTest, NoRequestIsSentTwiceOnceTextHasBeenReturned) {
  Start(2);
  for (int i = 0; i < 2; ++i) {
    language(i)->SetScript(
        [](const v1::DecodeRequest&, grpc::ServerWriter<v1::DecodeEvent>& writer) {
          v1::DecodeEvent event;
          event.mutable_delta()->set_text("[");
          writer.Write(event);
          absl::SleepFor(absl::Milliseconds(50));
          return Lost();
        });
  }
  GroundInput input = Input(png_);
  std::string words;
  input.on_delta = [&words](absl::string_view text) { words += std::string(text); };
  EXPECT_THAT(grounder_->Ground(input).status(), HasReason(Reason::kWorkerLost));
  EXPECT_EQ(words, "[");
  EXPECT_EQ(language(0)->requests().size() + language(1)->requests().size(), 1u);
}

TEST_F(GrounderTest, RetriesAreAShareOfTheTraffic) {
  Start(2);
  for (int i = 0; i < 2; ++i) language(i)->SetScript([](const auto&, auto&) { return Lost(); });
  for (int i = 0; i < 40; ++i) EXPECT_THAT(Send(png_).status(), HasReason(Reason::kWorkerLost));
  const size_t asked = language(0)->requests().size() + language(1)->requests().size();
  EXPECT_GE(asked, 40u + 10);
  EXPECT_LE(asked, 40u + 14);
  EXPECT_NE(Metric("chord_retries_total{outcome=\"over_budget\"}"), "0");
}

TEST_F(GrounderTest, AllThatALostWorkerHadIsAskedOfAnother) {
  retry_burst_ = 32;
  Start(2);
  language(0)->SetScript([](const auto&, auto&) { return Lost(); });
  while (language(0)->requests().size() < 30) {
    const auto result = Send(png_);
    ASSERT_TRUE(result.ok()) << result.status() << " after " << language(0)->requests().size();
    EXPECT_EQ(result->language_worker, "l1");
    EXPECT_EQ(result->vision_worker, "v");
  }
}

// It looks names up by itself, and finds a new worker a little later than the gateway.
TEST_F(GrounderTest, ALanguageWorkerThatTheVisionWorkerDoesNotKnowYetIsLeftAlone) {
  Start(2);
  vision_->SetScript([&] {
    const bool known = vision_->headers().back().target() != "l0";
    return known ? grpc::Status::OK : rpc::ToGrpc(errors::PeerUnknown());
  });
  const absl::Time begun = absl::Now();
  for (int i = 0; i < 20; ++i) {
    const auto result = Send(png_);
    ASSERT_TRUE(result.ok()) << i << ": " << result.status();
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begun);
  EXPECT_LE(static_cast<double>(language(0)->requests().size()), 1 + seconds);
  vision_->SetScript(nullptr);
  const size_t before = language(0)->requests().size();
  Await([&] { return Send(png_).ok() && language(0)->requests().size() > before; });
}

TEST_F(GrounderTest, AnUnknownLanguageWorkerWithoutAnotherIsNotOurFault) {
  Start();
  vision_->SetScript([] { return rpc::ToGrpc(errors::PeerUnknown()); });
  EXPECT_THAT(Send(png_).status(), HasReason(Reason::kWorkerUnavailable));
}

TEST_F(GrounderTest, ADeadlineBeforeAWorkerIsBackNamesTheMissingWorker) {
  WorkerPool::Options pool = PoolOptions();
  pool.language.push_back({"l0", "127.0.0.1:1"});  // where nothing listens
  StartWith(std::move(pool));
  GroundInput input = Input(png_);
  input.deadline = input.received_at + absl::Milliseconds(300);  // worker_wait is 5 s
  const auto result = grounder_->Ground(input);
  EXPECT_THAT(result.status(), HasReason(Reason::kWorkerUnavailable));
  EXPECT_TRUE(absl::StrContains(result.status().message(), "language"));
}

TEST_F(GrounderTest, ALostVisionWorkerIsToldWhenThereIsNoOther) {
  Start();
  vision_->SetScript([] { return Lost(); });
  const auto result = Send(png_);
  EXPECT_THAT(result.status(), HasReason(Reason::kWorkerLost));
  EXPECT_TRUE(absl::StrContains(result.status().message(), "vision"));
  vision_->SetScript(nullptr);
  EXPECT_TRUE(Send(png_).ok());
}

TEST_F(GrounderTest, RowsThatDidNotGetAcrossAreSentOnceMore) {
  Start();
  vision_->SetScript([&] {
    vision_->SetScript(nullptr);
    return rpc::ToGrpc(errors::WorkerLost("language"));
  });
  const auto result = Send(png_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(vision_->headers().size(), 2u);
  EXPECT_EQ(language()->requests().size(), 2u);
}

TEST_F(GrounderTest, ObjectsAreToldOnceEachInOrder) {
  Start();
  language()->SetAnswer(
      R"([{"bbox_2d": [1, 1, 9, 9], "label": "a"}, {"bbox_2d": [20, 20, 40, 40], "label": "b"}])");
  GroundInput input = Input(png_);
  std::string told;
  input.on_object = [&told](const GroundObject& object) { told += object.label; };
  ASSERT_TRUE(grounder_->Ground(input).ok());
  EXPECT_EQ(told, "ab");
}

TEST_F(GrounderTest, CancellationEndsBothCallsAndFreesThePlace) {
  Start();
  absl::Notification there, cancelled;
  language()->SetScript([&](const v1::DecodeRequest&, auto& writer) {
    there.Notify();
    while (writer.Write(v1::DecodeEvent())) absl::SleepFor(absl::Milliseconds(5));
    cancelled.Notify();
    return Lost();
  });
  CancelSource cancel;
  GroundInput input = Input(png_);
  input.cancel = cancel.token();
  std::thread canceller([&] {
    there.WaitForNotification();
    cancel.Cancel(errors::Cancelled());
  });
  EXPECT_THAT(grounder_->Ground(input).status(), HasReason(Reason::kCancelled));
  canceller.join();
  EXPECT_TRUE(cancelled.WaitForNotificationWithTimeout(absl::Seconds(5)));
  EXPECT_EQ(admission_.in_flight(), 0);
  EXPECT_EQ(Metric("chord_image_store_images"), "0");
}

TEST_F(GrounderTest, WorkersAreFoundByDns) {
  language_.push_back(
      std::make_unique<FakeWorker<FakeLanguage>>(v1::WorkerState::ROLE_LANGUAGE, rows_));
  WorkerPool::Options pool = PoolOptions();
  pool.language.push_back({"l", absl::StrCat("dns:127.0.0.1:", language().port())});
  pool.dns_every = absl::Milliseconds(50);
  StartWith(std::move(pool));
  ASSERT_TRUE(Send(png_).ok());
  EXPECT_EQ(vision_->headers()[0].target(), absl::StrCat("l-127.0.0.1:", language().port()));
}

}  // namespace
}  // namespace chord::gateway
