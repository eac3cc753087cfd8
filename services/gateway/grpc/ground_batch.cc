#include <deque>

#include "absl/synchronization/mutex.h"
#include "services/gateway/grpc/ground_call.h"
#include "services/gateway/parallel_for.h"

namespace chord::gateway {
namespace {

using grpc::ByteBuffer;

// Requests of one GroundBatch that run at once; while that many do, no more is read.
constexpr int kStreamWidth = 16;

// A list of requests, a few at a time; one answer with all of theirs.
class GroundListCall final : public OneMessageCall<grpc::ServerUnaryReactor> {
 public:
  GroundListCall(const EndpointDeps& deps, grpc::CallbackServerContext* context,
                 const ByteBuffer* request, ByteBuffer* response)
      : OneMessageCall(deps, context, request, obs::Method::kGroundBatch), response_(response) {}

 private:
  void Work(ByteBuffer* message) override { End(Answer(message)); }

  absl::Status Answer(ByteBuffer* message) {
    v1::GroundListRequest request;
    CHORD_RETURN_IF_ERROR(Parse(message, &request));
    v1::GroundListResponse response;
    for (int i = 0; i < request.requests_size(); ++i) response.add_results();
    ParallelFor(deps_.executor, request.requests_size(), kBatchWidth,
                [&](int i) { *response.mutable_results(i) = AnswerItem(request.requests(i)); });
    CHORD_RETURN_IF_ERROR(token().Check());
    *response_ = rpc::SerializeRaw(response);
    return absl::OkStatus();
  }

  absl::Status Parse(ByteBuffer* message, v1::GroundListRequest* request) const {
    // Counted before it is parsed: there may be millions.
    const int announced = rpc::CountField(*message, v1::GroundListRequest::kRequestsFieldNumber);
    if (announced > deps_.max_batch) return errors::BatchLimit(announced, deps_.max_batch);
    CHORD_RETURN_IF_ERROR(
        ParseAs(message, "GroundListRequest", request, kMaxFields * deps_.max_batch));
    message->Clear();
    return request->requests_size() < 1 ? errors::BatchEmpty() : absl::OkStatus();
  }

  void OnEnd(const absl::Status& status) override {
    scope_.EndWithout(status);
    Finish(rpc::ToGrpc(status, id_));
  }

  ByteBuffer* const response_;
};

// Requests as they come, answers as they finish. Reads no further while the number of requests that
// run or whose answers the client has not taken is at its limit: its window fills, and it waits.
class GroundBatchCall final
    : public GroundingCall<grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>> {
 public:
  GroundBatchCall(const EndpointDeps& deps, grpc::CallbackServerContext* context)
      : GroundingCall(deps, context, obs::Method::kGroundBatch) {}

  // A client that has sent all its requests gets its answers, and its end is OK. Another one gets
  // the answers to what it has sent, and `reason`.
  void OnShutdown(const absl::Status& reason) override {
    absl::MutexLock lock(&mu_);
    if (read_all_) return;
    read_all_ = true;
    status_ = reason;
    Advance();
  }

  void OnReadDone(bool ok) override {
    absl::MutexLock lock(&mu_);
    reading_ = false;
    if (!ok || read_all_) {  // the client's last message, or shutdown came before its next one
      read_all_ = true;
      return Advance();
    }
    v1::GroundBatchRequest item;
    absl::Status status = CheckSize(read_);
    if (status.ok()) status = ParseAs(&read_, "GroundBatchRequest", &item);
    if (status.ok()) {
      StartItem(std::move(item));
    } else {
      status_ = status;  // nothing after it can be told apart
      read_all_ = true;
      CancelWork(status);
    }
    Advance();
  }

  void OnWriteDone(bool ok) override {
    if (!ok) CancelWork(errors::Cancelled());
    absl::MutexLock lock(&mu_);
    writing_ = false;
    Advance();
  }

 private:
  void Begin() override {
    if (!caller_.ok()) return (void)End(caller_.status());
    absl::MutexLock lock(&mu_);
    Advance();
  }

  void StartItem(v1::GroundBatchRequest item) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    ++running_;
    auto shared = std::make_shared<const v1::GroundBatchRequest>(std::move(item));
    const bool taken = deps_.executor.TryRun([self = Shared(this), shared] {
      const v1::GroundBatchResponse answer = self->AnswerItem(*shared);
      absl::MutexLock lock(&self->mu_);
      --self->running_;
      self->answers_.push_back(rpc::SerializeRaw(answer));
      self->Advance();
    });
    if (taken) return;
    --running_;
    const absl::Status busy = errors::Overloaded(deps_.admission.RetryAfter());
    v1::GroundBatchResponse answer;
    answer.set_tag(Echo(shared->tag()));
    *answer.mutable_error() = ErrorProto(busy, id_);
    deps_.metrics.Rejected(busy);
    answers_.push_back(rpc::SerializeRaw(answer));
  }

  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (ended()) return;
    if (!writing_ && !answers_.empty()) {
      write_ = std::move(answers_.front());
      answers_.pop_front();
      writing_ = true;
      Write(&write_);
    }
    const int held = running_ + static_cast<int>(answers_.size()) + (writing_ ? 1 : 0);
    if (!read_all_ && !reading_ && held < kStreamWidth) {
      reading_ = true;
      read_.Clear();
      Read(&read_, absl::InfiniteDuration(), absl::OkStatus());
    }
    // A read that waits for what the client may never send ends with the call.
    if (read_all_ && running_ == 0 && answers_.empty() && !writing_) {
      End(status_.ok() ? token().Check() : status_);
    }
  }

  void OnEnd(const absl::Status& status) override {
    scope_.EndWithout(status);
    Finish(rpc::ToGrpc(status, id_));
  }

  absl::Mutex mu_;
  ByteBuffer read_ ABSL_GUARDED_BY(mu_), write_ ABSL_GUARDED_BY(mu_);
  std::deque<ByteBuffer> answers_ ABSL_GUARDED_BY(mu_);
  bool reading_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool read_all_ ABSL_GUARDED_BY(mu_) = false;
  int running_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

grpc::ServerUnaryReactor* StartGroundList(const EndpointDeps& deps,
                                          grpc::CallbackServerContext* context,
                                          const ByteBuffer* request, ByteBuffer* response) {
  return rpc::StartCall<GroundListCall>(nullptr, deps, context, request, response);
}

grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* StartGroundBatch(
    const EndpointDeps& deps, rpc::CallRegistry& registry, grpc::CallbackServerContext* context) {
  return rpc::StartCall<GroundBatchCall>(&registry, deps, context);
}

}  // namespace chord::gateway
