#include "common/rpc/watch_call.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "chord/internal/v1/worker_status.grpc.pb.h"
#include "common/base/errors.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "common/rpc/status_map.h"
#include "tests/support/has_reason.h"

namespace chord::rpc {
namespace {

using internal::v1::WatchRequest;
using internal::v1::WorkerState;

// The value of a test in a message of the right size to fill a stream's window after a few.
WorkerState Value(int value) {
  WorkerState out;
  out.set_requests_queued(value);
  out.set_device(std::string(32 << 10, 'x'));
  return out;
}

class WatchService final : public internal::v1::WorkerStatus::CallbackService {
 public:
  class Watcher final : public WatchCall<WorkerState> {
   public:
    explicit Watcher(std::optional<WorkerState> first) : WatchCall(std::move(first)) {}
    using WatchCall::Publish;
  };
  grpc::ServerWriteReactor<WorkerState>* Watch(grpc::CallbackServerContext*,
                                               const WatchRequest*) override {
    return StartCall<Watcher>(&calls, Value(0));
  }
  void Publish(int value) {
    for (const auto& call : calls.Open()) static_cast<Watcher&>(*call).Publish(Value(value));
  }
  CallRegistry calls;
};

class WatchCallTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = Server::Start({.address = "127.0.0.1:0"}, {&service_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    stub_ = internal::v1::WorkerStatus::NewStub(
        MakeChannel(absl::StrCat("127.0.0.1:", server_->port())));
    context_.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(60)));
    stream_ = stub_->Watch(&context_, WatchRequest());
  }
  // The next value, or -1 at the end.
  int Next() {
    WorkerState state;
    return stream_->Read(&state) ? static_cast<int>(state.requests_queued()) : -1;
  }

  WatchService service_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<internal::v1::WorkerStatus::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<WorkerState>> stream_;
};

TEST_F(WatchCallTest, ASlowReaderMissesValuesInBetweenButNotTheLast) {
  ASSERT_EQ(Next(), 0);
  constexpr int kValues = 1000;
  for (int value = 1; value <= kValues; ++value) service_.Publish(value);
  int last = 0, received = 0;
  while (last < kValues) {
    const int value = Next();
    ASSERT_GT(value, last);
    last = value;
    ++received;
  }
  EXPECT_LT(received, kValues);
}

TEST_F(WatchCallTest, EndsAfterTheLastValue) {
  ASSERT_EQ(Next(), 0);
  service_.Publish(1);
  service_.calls.Shutdown(errors::ShuttingDown());
  EXPECT_EQ(Next(), 1);
  EXPECT_EQ(Next(), -1);
  EXPECT_THAT(FromGrpc(stream_->Finish()), HasReason(Reason::kShuttingDown));
}

TEST_F(WatchCallTest, ARefusedCallStillGetsItsFirstValue) {
  service_.calls.Shutdown(errors::ShuttingDown());
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(60)));
  const auto late = stub_->Watch(&context, WatchRequest());
  WorkerState state;
  ASSERT_TRUE(late->Read(&state));
  EXPECT_EQ(state.requests_queued(), 0);
  EXPECT_FALSE(late->Read(&state));
  EXPECT_THAT(FromGrpc(late->Finish()), HasReason(Reason::kShuttingDown));
}

TEST_F(WatchCallTest, ACancelledCallIsReleased) {
  ASSERT_EQ(Next(), 0);
  context_.TryCancel();
  while (Next() >= 0) {
  }
  for (int i = 0; i < 60'000 && service_.calls.active() > 0; ++i) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(service_.calls.active(), 0u);
}

}  // namespace
}  // namespace chord::rpc
