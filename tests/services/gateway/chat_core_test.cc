// Conversations, labels and points through the core, against workers by script over real sockets;
// and the routes of the HTTP frontend against their OpenAPI document.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/executor.h"
#include "common/http/operational.h"
#include "common/image/image.h"
#include "services/gateway/grounder.h"
#include "services/gateway/http/http_service.h"
#include "services/gateway/http/web_page.h"
#include "services/gateway/openapi.h"
#include "tests/services/gateway/fake_workers.h"

namespace chord::gateway {
namespace {

using ::testing::ElementsAre;
using testing::FakeLanguage;
using testing::FakeVision;
using testing::FakeWorker;
namespace v1 = internal::v1;

std::string Png() {
  image::RgbImage image;
  image.width = 64;
  image.height = 48;
  image.rgb.assign(64 * 48 * 3, 99);
  const auto png = image::EncodePng(image);
  return {png->begin(), png->end()};
}

class ChatCoreTest : public ::testing::Test {
 protected:
  ChatCoreTest() {
    WorkerPool::Options pool;
    pool.fingerprint = "model";
    pool.heartbeat = absl::Milliseconds(100);
    pool.vision.push_back({"v", vision_.address()});
    pool.language.push_back({"l", language_.address()});
    pool_ = WorkerPool::Start(std::move(pool));
    ImageService::Options images;
    images.fingerprint = "model";
    images.store = {1 << 20, absl::Minutes(1)};
    image_service_ = std::make_unique<ImageService>(images, *pool_, metrics_);
    Grounder::Options options;
    options.fingerprint = "model";
    options.model_name = "fake";
    options.max_prompt_bytes = 4096;
    options.default_new_tokens = 64;
    options.max_new_tokens = 512;
    options.default_deadline = options.max_deadline = absl::Seconds(20);
    options.worker_wait = absl::Seconds(5);
    grounder_ = std::make_unique<Grounder>(options, admission_, *image_service_, *pool_, metrics_,
                                           executor_);
    input_.request_id = "req";
    input_.image = png_;
    input_.received_at = absl::Now();
  }
  GroundResult Ground() {
    const auto result = grounder_->Ground(input_);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *result : GroundResult();
  }

  const std::string png_ = Png();
  testing::Rows rows_;
  FakeWorker<FakeVision> vision_{v1::WorkerState::ROLE_VISION, rows_};
  FakeWorker<FakeLanguage> language_{v1::WorkerState::ROLE_LANGUAGE, rows_};
  obs::Metrics metrics_{obs::Role::kGateway, "1"};
  Admission admission_{{64, 32, 256 << 20}};
  std::unique_ptr<WorkerPool> pool_;
  std::unique_ptr<ImageService> image_service_;
  Executor executor_{8, 8};
  std::unique_ptr<Grounder> grounder_;
  GroundInput input_;
};

TEST_F(ChatCoreTest, AConversationReachesTheWorkerAsItIs) {
  using Role = ChatTurn::Role;
  input_.conversation = {{Role::kSystem, {{false, "be brief"}}},
                         {Role::kUser, {{false, "look: "}, {true, ""}, {false, "what?"}}},
                         {Role::kAssistant, {{false, "a cup"}}},
                         {Role::kUser, {{false, "where?"}}}};
  input_.grammar = false;
  input_.decode.sampling = {0.5f, 0.9f, 1234567890123456789u};
  input_.decode.stop = {"END"};
  input_.decode.top_tokens = 3;
  Ground();
  const auto requests = language_->requests();
  ASSERT_EQ(requests.size(), 1u);
  std::vector<std::string> turns;
  for (const v1::Turn& turn : requests[0].turns()) {
    std::string text = turn.role() + ":";
    for (const v1::Part& part : turn.parts()) {
      absl::StrAppend(&text, part.has_image() ? absl::StrCat("<", part.image(), ">") : part.text(),
                      "|");
    }
    turns.push_back(text);
  }
  EXPECT_THAT(turns, ElementsAre("system:be brief|", "user:look: |<0>|what?|", "assistant:a cup|",
                                 "user:where?|"));
  EXPECT_FALSE(requests[0].grammar());
  EXPECT_FLOAT_EQ(requests[0].sampling().temperature(), 0.5f);
  EXPECT_FLOAT_EQ(requests[0].sampling().top_p(), 0.9f);
  EXPECT_EQ(requests[0].sampling().seed(), 1234567890123456789u);
  EXPECT_THAT(requests[0].stop(), ElementsAre("END"));
  EXPECT_EQ(requests[0].top_tokens(), 3);
}

TEST_F(ChatCoreTest, AGreedyRequestHasNoSampling) {
  input_.prompt = "the thing";
  input_.decode.sampling.seed = 5;
  Ground();
  EXPECT_FALSE(language_->requests()[0].has_sampling());
}

TEST_F(ChatCoreTest, TokensComeWhenTheyAreAskedFor) {
  input_.prompt = "the thing";
  EXPECT_TRUE(Ground().tokens.empty());
  input_.decode.want_tokens = true;
  const GroundResult result = Ground();
  ASSERT_EQ(result.tokens.size(), 1u);
  EXPECT_EQ(result.tokens[0].text, result.model_text);
  EXPECT_NEAR(result.tokens[0].log_probability, -0.1, 1e-9);
}

TEST_F(ChatCoreTest, LabelsGoAsOnePromptAndComeBackWithTheirObjects) {
  language_->SetAnswer(
      R"([{"bbox_2d": [1, 1, 9, 9], "label": "plate"}, {"bbox_2d": [10, 1, 20, 9], "label": "cup"}])");
  input_.labels = {"cup", "plate", "fork"};
  const GroundResult result = Ground();
  EXPECT_EQ(language_->requests().size(), 1u);
  EXPECT_EQ(language_->requests()[0].turns(0).parts(1).text(), "all cup, plate, fork");
  ASSERT_EQ(result.labels.size(), 3u);
  EXPECT_THAT(result.labels[0].objects, ElementsAre(1));
  EXPECT_THAT(result.labels[1].objects, ElementsAre(0));
  EXPECT_TRUE(result.labels[2].objects.empty());
}

TEST_F(ChatCoreTest, PointsComeInOriginalPixelsAndWithoutTheBoxGrammar) {
  language_->SetAnswer(R"([{"point_2d": [28, 14], "label": "cup"}])");
  input_.prompt = "point to the cup";
  const GroundResult result = Ground();
  EXPECT_FALSE(language_->requests()[0].grammar());
  ASSERT_EQ(result.points.size(), 1u);
  EXPECT_EQ(result.points[0].label, "cup");
  const image::FramePlan& frame = result.frame;
  EXPECT_EQ(result.points[0].at.x, 28 * frame.upright.width / frame.resized.width);
  EXPECT_EQ(result.points[0].at.y, 14 * frame.upright.height / frame.resized.height);
  EXPECT_TRUE(result.objects.empty());
}

TEST_F(ChatCoreTest, EveryRouteIsInTheOpenApiDocument) {
  Executor executor(1, 1);
  const EndpointDeps deps = {*grounder_, admission_, *image_service_, executor, metrics_};
  std::set<std::string> routes, documented;
  for (const http::Route& route : HttpRoutes(
           deps, ServiceVersion(), [] { return absl::OkStatus(); },
           http::MetricsRoute([] { return std::string(); }))) {
    routes.insert(
        absl::StrCat(route.method, " ", absl::StrReplaceAll(route.path, {{"/*", "/{}"}})));
  }
  // Of the web page its address and its configuration are part of the API; its files are not.
  std::set<std::string> page;
  for (const http::Route& route : WebPageRoutes(PageConfig())) page.insert(route.path);
  for (const char* path : {"/", "/page.json"}) {
    EXPECT_EQ(page.count(path), 1u) << path;
    routes.insert(absl::StrCat("GET ", path));
  }
  const auto document = nlohmann::json::parse(kOpenApi, nullptr, /*allow_exceptions=*/false);
  ASSERT_TRUE(document.is_object());
  for (const auto& [path, item] : document["paths"].items()) {
    const size_t brace = path.find('{');
    const std::string place = brace == path.npos ? path : absl::StrCat(path.substr(0, brace), "{}");
    for (const char* method : {"GET", "POST", "DELETE"}) {
      const std::string key =
          absl::StrReplaceAll(method, {{"GET", "get"}, {"POST", "post"}, {"DELETE", "delete"}});
      if (item.contains(key)) documented.insert(absl::StrCat(method, " ", place));
    }
  }
  EXPECT_EQ(routes, documented) << "web/openapi.json describes every route";
}

}  // namespace
}  // namespace chord::gateway
