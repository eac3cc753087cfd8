#include "common/rpc/call.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "chord/internal/v1/embedding.grpc.pb.h"
#include "common/base/errors.h"
#include "common/rpc/channel.h"
#include "common/rpc/deadline.h"
#include "common/rpc/server.h"
#include "common/rpc/status_map.h"
#include "tests/support/has_reason.h"

namespace chord::rpc {
namespace {

using internal::v1::PushRequest;
using internal::v1::PushResponse;

// A server whose calls echo the number of messages, and what a test sees of them.
class EchoService : public internal::v1::EmbeddingSink::CallbackService {
 public:
  using Reactor = grpc::ServerBidiReactor<PushRequest, PushResponse>;

  class Echo final : public ServerCall<Reactor> {
   public:
    Echo(EchoService* service, grpc::CallbackServerContext* context)
        : ServerCall(DeadlineOf(*context), service->longest), service_(service) {
      ++service_->alive;
    }
    ~Echo() override { --service_->alive; }
    void OnReadDone(bool ok) override {
      if (!ok) {  // half-closed, or cancelled: then OnCancel follows
        if (service_->ends_on_half_close) End(absl::OkStatus());
        return;
      }
      response_.mutable_received()->set_bytes(++messages_);
      Write(&response_);
    }
    void OnWriteDone(bool ok) override {
      if (ok) Next();
    }

   protected:
    void Begin() override {
      if (service_->on_begin) service_->on_begin(this);
      Next();
    }
    void OnEnd(const absl::Status& status) override {
      ++service_->ends;
      service_->outcome = status;
      Finish(ToGrpc(status, "req_test"));
    }
    absl::Status CancelReason() const override { return errors::WorkerLost("vision"); }

   private:
    friend class EchoService;
    void Next() { Read(&request_, service_->stall, errors::RequestTimeout()); }
    EchoService* const service_;
    PushRequest request_;
    PushResponse response_;
    int64_t messages_ = 0;
  };

  Reactor* Push(grpc::CallbackServerContext* context) override {
    return StartCall<Echo>(&calls, this, context);
  }
  static void EndWithToken(Echo* call, const CancelToken& token) { call->EndWith(token); }

  CallRegistry calls{3};
  absl::Duration longest = absl::Minutes(1);
  absl::Duration stall = absl::Minutes(1);
  bool ends_on_half_close = true;
  std::function<void(Echo*)> on_begin;
  std::atomic<int> alive{0};
  std::atomic<int> ends{0};
  absl::Status outcome = absl::UnknownError("not ended");  // read after the call is destroyed
};

class CallTest : public ::testing::Test {
 protected:
  CallTest() {
    auto server = Server::Start({.address = "127.0.0.1:0"}, {&service_});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    stub_ = internal::v1::EmbeddingSink::NewStub(
        MakeChannel(absl::StrCat("127.0.0.1:", server_->port())));
  }
  ~CallTest() override { server_->Shutdown(absl::Now() + absl::Seconds(5)); }

  // A client whose first message was answered, so that the server's call is open.
  struct Client {
    explicit Client(internal::v1::EmbeddingSink::Stub* stub,
                    absl::Duration deadline = absl::Seconds(20)) {
      SetDeadline(context, absl::Now() + deadline);
      stream = stub->Push(&context);
    }
    bool Exchange() { return stream->Write(PushRequest()) && stream->Read(&response); }
    absl::Status Finish() { return FromGrpc(stream->Finish()); }
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReaderWriter<PushRequest, PushResponse>> stream;
    PushResponse response;
  };
  bool WaitUntilReleased() {
    const absl::Time until = absl::Now() + absl::Seconds(20);
    while (service_.alive > 0 && absl::Now() < until) absl::SleepFor(absl::Milliseconds(1));
    return service_.alive == 0;
  }

  EchoService service_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<internal::v1::EmbeddingSink::Stub> stub_;
};

TEST_F(CallTest, LivesUntilGrpcIsDoneAndThenReleasesItself) {
  {
    Client client(stub_.get());
    for (int i = 1; i <= 3; ++i) {
      ASSERT_TRUE(client.Exchange());
      EXPECT_EQ(client.response.received().bytes(), i);
    }
    EXPECT_EQ(service_.calls.active(), 1u);
    client.stream->WritesDone();
    EXPECT_TRUE(client.Finish().ok());
  }
  EXPECT_TRUE(WaitUntilReleased());
  EXPECT_EQ(service_.ends, 1);
  EXPECT_TRUE(service_.outcome.ok());
  EXPECT_EQ(service_.calls.active(), 0u);
}

TEST_F(CallTest, TheFirstOutcomeWinsAndRunsOnEndOnce) {
  std::shared_ptr<OpenCall> call;
  service_.on_begin = [&](EchoService::Echo* c) { call = c->shared_from_this(); };
  Client client(stub_.get());
  ASSERT_TRUE(client.Exchange());
  std::atomic<int> winners{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { winners += call->End(errors::TicketUnknown()) ? 1 : 0; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(winners, 1);
  EXPECT_EQ(service_.ends, 1);
  EXPECT_TRUE(call->ended());
  EXPECT_THAT(client.Finish(), HasReason(Reason::kTicketUnknown));
  call = nullptr;
  EXPECT_TRUE(WaitUntilReleased());
}

TEST_F(CallTest, SweepEndsACallWhoseClientStalls) {
  service_.stall = absl::Seconds(5);
  Client client(stub_.get());
  ASSERT_TRUE(client.Exchange());
  service_.calls.Sweep(absl::Now());
  EXPECT_EQ(service_.ends, 0) << "not yet";
  ASSERT_TRUE(client.Exchange());
  service_.calls.Sweep(absl::Now() + absl::Seconds(6));
  EXPECT_THAT(client.Finish(), HasReason(Reason::kRequestTimeout));
  EXPECT_TRUE(WaitUntilReleased());
}

TEST_F(CallTest, ClientCancellationFiresTheTokenAndEndsWithTheCallsOwnReason) {
  service_.ends_on_half_close = false;
  absl::Notification fired;
  CancelToken::Registration registration;
  service_.on_begin = [&](EchoService::Echo* call) {
    registration = call->token().OnCancel([&] { fired.Notify(); });
  };
  Client client(stub_.get());
  ASSERT_TRUE(client.Exchange());
  client.context.TryCancel();
  ASSERT_TRUE(fired.WaitForNotificationWithTimeout(absl::Seconds(20)));
  EXPECT_TRUE(absl::IsCancelled(client.Finish()));
  EXPECT_TRUE(WaitUntilReleased());
  EXPECT_THAT(service_.outcome, HasReason(Reason::kWorkerLost));
  EXPECT_EQ(service_.ends, 1);
}

TEST_F(CallTest, TheClientsDeadlineEndsTheCall) {
  Client client(stub_.get(), absl::Milliseconds(200));
  ASSERT_TRUE(client.Exchange());
  EXPECT_EQ(client.Finish().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(WaitUntilReleased());
  EXPECT_EQ(service_.ends, 1);
}

TEST_F(CallTest, TheDeadlineIsTheEarlierOfTheClientsAndTheServersOwn) {
  service_.longest = absl::Seconds(3);
  absl::Duration left;
  service_.on_begin = [&](EchoService::Echo* call) { left = call->deadline() - call->received(); };
  Client client(stub_.get());
  ASSERT_TRUE(client.Exchange());
  EXPECT_EQ(left, absl::Seconds(3));
  client.context.TryCancel();
  client.Finish().IgnoreError();
  EXPECT_TRUE(WaitUntilReleased());
}

TEST_F(CallTest, EndsWithATokenThatFiresFromAnotherThread) {
  CancelSource ticket;
  service_.on_begin = [&](EchoService::Echo* call) {
    EchoService::EndWithToken(call, ticket.token());
  };
  Client client(stub_.get());
  ASSERT_TRUE(client.Exchange());
  std::thread other([&] { ticket.Cancel(errors::TicketUnknown()); });
  EXPECT_THAT(client.Finish(), HasReason(Reason::kTicketUnknown));
  other.join();
  EXPECT_TRUE(WaitUntilReleased());
}

TEST_F(CallTest, ATokenThatHasFiredEndsTheCallBeforeItBegins) {
  CancelSource ticket;
  ticket.Cancel(errors::TicketReused());
  service_.on_begin = [&](EchoService::Echo* call) {
    EchoService::EndWithToken(call, ticket.token());
  };
  Client client(stub_.get());
  EXPECT_THAT(client.Finish(), HasReason(Reason::kTicketReused));
  EXPECT_TRUE(WaitUntilReleased());
}

TEST_F(CallTest, TheRegistryRefusesMoreCallsThanItsLimit) {
  std::vector<std::unique_ptr<Client>> open;
  for (int i = 0; i < 3; ++i) {
    open.push_back(std::make_unique<Client>(stub_.get()));
    ASSERT_TRUE(open.back()->Exchange());
  }
  {
    Client refused(stub_.get());
    EXPECT_THAT(refused.Finish(), HasReason(Reason::kOverloaded));
  }
  open.back()->stream->WritesDone();
  EXPECT_TRUE(open.back()->Finish().ok());
  open.pop_back();
  const absl::Time until = absl::Now() + absl::Seconds(20);
  while (service_.alive > 2 && absl::Now() < until) absl::SleepFor(absl::Milliseconds(1));
  Client next(stub_.get());
  EXPECT_TRUE(next.Exchange()) << "a closed call makes room";
  next.context.TryCancel();
  next.Finish().IgnoreError();
  for (auto& client : open) {
    client->context.TryCancel();
    client->Finish().IgnoreError();
  }
  EXPECT_TRUE(WaitUntilReleased());
}

TEST_F(CallTest, ShutdownEndsOpenCallsAndRefusesLaterOnes) {
  Client client(stub_.get());
  ASSERT_TRUE(client.Exchange());
  service_.calls.Shutdown(errors::ShuttingDown());
  EXPECT_THAT(client.Finish(), HasReason(Reason::kShuttingDown));
  Client late(stub_.get());
  EXPECT_THAT(late.Finish(), HasReason(Reason::kShuttingDown));
  EXPECT_TRUE(WaitUntilReleased());
}

TEST_F(CallTest, ManyCallsThatEndAndCancelAtOnceAllReleaseThemselves) {
  for (int round = 0; round < 50; ++round) {
    CancelSource ticket;
    service_.on_begin = [&](EchoService::Echo* call) {
      EchoService::EndWithToken(call, ticket.token());
    };
    Client client(stub_.get());
    ASSERT_TRUE(client.Exchange());
    std::thread other([&] { ticket.Cancel(errors::TicketUnknown()); });
    client.context.TryCancel();
    service_.calls.Sweep(absl::Now() + absl::Hours(1));
    client.Finish().IgnoreError();
    other.join();
    ASSERT_TRUE(WaitUntilReleased()) << round;
  }
  EXPECT_EQ(service_.ends, 50);
}

TEST(CallReportTest, CountsTheBeginningAndTheOutcome) {
  obs::Metrics metrics(obs::Role::kLlmWorker, "test");
  CallReport ok(&metrics, obs::Method::kDecode, absl::Now());
  EXPECT_THAT(metrics.Serialize(),
              testing::HasSubstr("chord_inflight_requests{method=\"decode\"} 1"));
  ok.log().stages = {{obs::Stage::kDecode, absl::Milliseconds(3)}};
  ok.End(absl::OkStatus(), obs::Point::kDecode);
  CallReport late(&metrics, obs::Method::kDecode, absl::Now());
  late.End(errors::DeadlineExceeded(), obs::Point::kPrefill);
  CallReport refused(&metrics, obs::Method::kDecode, absl::Now());
  refused.End(errors::Overloaded(absl::Seconds(1)), obs::Point::kQueue);
  const std::string text = metrics.Serialize();
  EXPECT_THAT(text, testing::HasSubstr("chord_inflight_requests{method=\"decode\"} 0"));
  EXPECT_THAT(text, testing::HasSubstr("reason=\"OVERLOADED\"} 1"));
  EXPECT_THAT(text, testing::HasSubstr("prefill\"} 1"));
}

}  // namespace
}  // namespace chord::rpc
