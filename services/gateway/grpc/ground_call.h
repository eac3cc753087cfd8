// The calls of chord.v1.Grounding on rpc::ServerCall.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "chord/v1/grounding.pb.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/rpc/call.h"
#include "common/rpc/deadline.h"
#include "common/rpc/trace_metadata.h"
#include "services/gateway/endpoint_deps.h"
#include "services/gateway/grpc/call_support.h"
#include "services/gateway/grpc/grpc_service.h"
#include "services/gateway/grpc/proto_codec.h"
#include "services/gateway/request_scope.h"

namespace chord::gateway {

// Starts the call of each method; the pointer is for gRPC. `registry` ends calls at shutdown.
grpc::ServerUnaryReactor* StartGround(const EndpointDeps& deps,
                                      grpc::CallbackServerContext* context,
                                      const grpc::ByteBuffer* request, grpc::ByteBuffer* response);
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGroundStream(const EndpointDeps& deps,
                                                              grpc::CallbackServerContext* context,
                                                              const grpc::ByteBuffer* request);
grpc::ServerUnaryReactor* StartGroundList(const EndpointDeps& deps,
                                          grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer* request,
                                          grpc::ByteBuffer* response);
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartGroundBatch(
    const EndpointDeps& deps, rpc::CallRegistry& registry, grpc::CallbackServerContext* context);

// A call whose requests run on the executor. Its work ends when its client cancels, and then ends
// the call: so nothing that the work uses goes before it.
template <typename Reactor>
class GroundingCall : public rpc::ServerCall<Reactor> {
 public:
  GroundingCall(const EndpointDeps& deps, grpc::CallbackServerContext* context, obs::Method method)
      : rpc::ServerCall<Reactor>(rpc::DeadlineOf(*context), absl::InfiniteDuration()),
        deps_(deps),
        context_(context),
        caller_(IdentifyCaller(deps, *context)),
        client_(caller_.ok() ? caller_->id : ""),
        client_deadline_(rpc::DeadlineOf(*context)),
        scope_(deps.metrics, method, id_, Announce(context, id_), this->received()) {
    if (caller_.ok()) scope_.set_api_key(caller_->key);
    trace_ = scope_.BeginSpan(rpc::TraceparentOf(*context));
  }

 protected:
  void OnClientCancel(const absl::Status&) override {}

  GroundInput NewInput() const {
    GroundInput input;
    input.request_id = id_;
    input.trace = trace_;
    input.client = client_;
    input.received_at = this->received();
    input.deadline = client_deadline_;
    input.cancel = this->token();
    return input;
  }
  absl::Status CheckSize(const grpc::ByteBuffer& bytes) const {
    const int64_t limit = deps_.images.limits().max_bytes + kMessageSlackBytes;
    if (static_cast<int64_t>(bytes.Length()) <= limit) return absl::OkStatus();
    return errors::BodyTooLarge(limit);
  }

  // One request of a batch, with its own id, time and entry in metrics and log.
  v1::GroundBatchResponse AnswerItem(const v1::GroundBatchRequest& item) {
    const std::string id = NewRequestId();
    RequestScope scope(deps_.metrics, obs::Method::kBatchItem, id, "", absl::Now());
    scope.set_api_key(caller_->key);
    const obs::TraceContext trace = scope.BeginSpan(obs::ToTraceparent(trace_));
    const absl::StatusOr<GroundResult> result = GroundItem(item, id, trace);
    scope.End(result);
    v1::GroundBatchResponse out;
    out.set_tag(Echo(item.tag()));
    if (result.ok()) {
      *out.mutable_response() = ToProto(*result);
    } else {
      *out.mutable_error() = ErrorProto(result.status(), id);
    }
    return out;
  }

  const EndpointDeps deps_;
  grpc::CallbackServerContext* const context_;
  const std::string id_ = NewRequestId();
  const absl::StatusOr<Client> caller_;  // or why the call is refused
  const std::string client_;
  const absl::Time client_deadline_;
  RequestScope scope_;
  obs::TraceContext trace_;  // of the call's span

 private:
  absl::StatusOr<GroundResult> GroundItem(const v1::GroundBatchRequest& item, const std::string& id,
                                          const obs::TraceContext& trace) {
    if (item.tag().size() > static_cast<size_t>(limits::kMaxTagBytes)) {
      return errors::ParameterInvalid(
          "tag", absl::StrCat("text of at most ", limits::kMaxTagBytes, " bytes"));
    }
    GroundInput input = NewInput();
    input.request_id = id;
    input.trace = trace;
    input.received_at = absl::Now();
    CHORD_RETURN_IF_ERROR(input.cancel.Check());
    CHORD_RETURN_IF_ERROR(FromProto(item.request(), input));
    return deps_.grounder.Ground(input);
  }
};

// A call with one message, whose work runs on the executor.
template <typename Reactor>
class OneMessageCall : public GroundingCall<Reactor> {
 public:
  OneMessageCall(const EndpointDeps& deps, grpc::CallbackServerContext* context,
                 const grpc::ByteBuffer* message, obs::Method method)
      : GroundingCall<Reactor>(deps, context, method), message_(*message) {}

 protected:
  // On a thread of the executor; ends the call.
  virtual void Work(grpc::ByteBuffer* message) = 0;

  void Begin() override {
    absl::Status status =
        this->context_->IsCancelled() ? errors::Cancelled() : this->caller_.status();
    if (status.ok()) status = this->deps_.admission.Check(this->client_);
    if (status.ok()) status = this->CheckSize(message_);
    if (!status.ok()) return (void)this->End(status);
    const bool taken = this->deps_.executor.TryRun([self = this->Shared(this)] {
      grpc::ByteBuffer message = std::move(self->message_);
      self->Work(&message);
    });
    if (!taken) this->End(errors::Overloaded(this->deps_.admission.RetryAfter()));
  }

 private:
  grpc::ByteBuffer message_;
};

// A call of one request.
template <typename Reactor>
class RequestCall : public OneMessageCall<Reactor> {
 protected:
  using OneMessageCall<Reactor>::OneMessageCall;
  // Adds what the call wants to be told while it runs.
  virtual void Observe(GroundInput&) {}

  // Of an OK call; set before OnEnd.
  const GroundResult& result() const { return **result_; }
  void ReportEnd(const absl::Status& status) {
    this->scope_.End(status.ok() ? *result_ : absl::StatusOr<GroundResult>(status));
  }

 private:
  void Work(grpc::ByteBuffer* message) override {
    result_ = Ground(message);
    this->End(result_->status());
  }
  absl::StatusOr<GroundResult> Ground(grpc::ByteBuffer* message) {
    v1::GroundRequest request;
    CHORD_RETURN_IF_ERROR(ParseGroundRequest(message, &request));
    message->Clear();
    GroundInput input = this->NewInput();
    Observe(input);
    CHORD_RETURN_IF_ERROR(FromProto(request, input));
    return this->deps_.grounder.Ground(input);
  }

  std::optional<absl::StatusOr<GroundResult>> result_;
};

}  // namespace chord::gateway
