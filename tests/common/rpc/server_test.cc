#include "common/rpc/server.h"

#include <gtest/gtest.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "chord/internal/v1/decode.grpc.pb.h"
#include "common/base/errors.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"
#include "common/rpc/frame_codec.h"
#include "common/rpc/status_map.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/support/has_reason.h"

namespace chord::rpc {
namespace {

class Refuser : public internal::v1::Language::Service {
  grpc::Status Decode(grpc::ServerContext* context, const internal::v1::DecodeRequest*,
                      grpc::ServerWriter<internal::v1::DecodeEvent>*) override {
    left = DeadlineOf(*context) - absl::Now();
    return ToGrpc(errors::TicketReused(), "req_x");
  }

 public:
  absl::Duration left;
};

absl::Status Call(const std::string& address, size_t prompt_bytes,
                  absl::Duration deadline = absl::Seconds(5)) {
  auto stub = internal::v1::Language::NewStub(MakeChannel(address));
  grpc::ClientContext context;
  SetDeadline(context, absl::Now() + deadline, absl::Milliseconds(100));
  internal::v1::DecodeRequest request;
  request.mutable_ticket()->set_id(std::string(prompt_bytes, 'x'));
  auto stream = stub->Decode(&context, request);
  internal::v1::DecodeEvent event;
  while (stream->Read(&event)) {
  }
  return FromGrpc(stream->Finish());
}

TEST(ServerTest, ErrorsAndDeadlinesCrossAUnixSocketAndTcp) {
  Refuser service;
  for (const std::string& address :
       {absl::StrCat("unix:", testing::TempDir(), "/rpc_test-", getpid(), ".sock"),
        std::string("127.0.0.1:0")}) {
    auto server = Server::Start({.address = address}, {&service});
    ASSERT_TRUE(server.ok()) << server.status();
    const std::string target =
        (*server)->port() == 0 ? address : absl::StrCat("127.0.0.1:", (*server)->port());
    EXPECT_THAT(Call(target, 8), HasReason(Reason::kTicketReused));
    EXPECT_LT(service.left, absl::Seconds(5));
    (*server)->Shutdown(absl::Now() + absl::Seconds(1));
  }
}

TEST(ServerTest, RefusesMessagesOverTheDefaultLimit) {
  Refuser service;
  auto server = Server::Start({.address = "127.0.0.1:0"}, {&service});
  ASSERT_TRUE(server.ok());
  EXPECT_EQ(Call(absl::StrCat("127.0.0.1:", (*server)->port()), 5 << 20).code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(ServerTest, SaysSoWhenTheAddressIsTaken) {
  Refuser service;
  auto first = Server::Start({.address = "127.0.0.1:0"}, {&service});
  ASSERT_TRUE(first.ok());
  Refuser other;
  auto second = Server::Start({.address = absl::StrCat("127.0.0.1:", (*first)->port())}, {&other});
  EXPECT_THAT(second.status(), HasReason(Reason::kConfigInvalid));
}

TEST(ServerTest, NeverDeletesAFileThatIsNotASocket) {
  const std::string path = absl::StrCat(testing::TempDir(), "/precious-", getpid());
  std::ofstream(path) << "text";
  Refuser service;
  EXPECT_THAT(Server::Start({.address = "unix:" + path}, {&service}).status(),
              HasReason(Reason::kConfigInvalid));
  EXPECT_TRUE(std::ifstream(path).good());
}

// A balancer holds Watch open for as long as the server lives.
TEST(ServerTest, HealthWatchersSeeTheShutdownAndDoNotDelayIt) {
  using grpc::health::v1::HealthCheckRequest;
  using grpc::health::v1::HealthCheckResponse;
  Refuser service;
  auto server = Server::Start({.address = "127.0.0.1:0", .ready_service = "x.Y"}, {&service});
  ASSERT_TRUE(server.ok());
  auto stub =
      grpc::health::v1::Health::NewStub(MakeChannel(absl::StrCat("127.0.0.1:", (*server)->port())));
  const auto check = [&](const std::string& name) {
    grpc::ClientContext context;
    HealthCheckRequest request;
    request.set_service(name);
    HealthCheckResponse response;
    const grpc::Status status = stub->Check(&context, request, &response);
    return status.ok() ? HealthCheckResponse::ServingStatus_Name(response.status())
                       : absl::StrCat("code ", status.error_code());
  };
  EXPECT_EQ(check(""), "SERVING");
  EXPECT_EQ(check("x.Y"), "NOT_SERVING");
  EXPECT_EQ(check("other"), "code 5");
  grpc::ClientContext context, unknown_context;
  HealthCheckRequest request;
  request.set_service("x.Y");
  const auto watch = stub->Watch(&context, request);
  request.set_service("other");
  const auto unknown = stub->Watch(&unknown_context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  ASSERT_TRUE(unknown->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  (*server)->SetReady(true);
  (*server)->SetReady(true);
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  EXPECT_EQ(check("x.Y"), "SERVING");

  (*server)->Shutdown(absl::InfiniteFuture());  // a watcher that holds it up hangs the test
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_FALSE(watch->Read(&response));
  EXPECT_THAT(FromGrpc(watch->Finish()), HasReason(Reason::kShuttingDown));
  EXPECT_FALSE(unknown->Read(&response));
  EXPECT_EQ(unknown->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST(FrameCodecTest, RoundTripsAndRefusesNonsense) {
  image::FramePlan plan;
  plan.stored = {1024, 768};
  plan.orientation = 6;
  plan.upright = {768, 1024};
  plan.resized = {756, 1036};
  plan.grid = {74, 54};
  plan.tokens = 999;
  auto back = FromProto(ToProto(plan));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(*back, plan);
  for (int field = 0; field < 4; ++field) {
    auto bad = ToProto(plan);
    if (field == 0) bad.set_orientation(9);
    if (field == 1) bad.set_stored_width(0);
    if (field == 2) bad.set_grid_h(-1);
    if (field == 3) bad.set_tokens(0);
    EXPECT_THAT(FromProto(bad).status(), HasReason(Reason::kFrameMismatch));
  }
}

}  // namespace
}  // namespace chord::rpc
