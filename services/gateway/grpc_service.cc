#include "services/gateway/grpc_service.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <deque>
#include <memory>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "chord/v1/admin.grpc.pb.h"
#include "chord/v1/grounding.grpc.pb.h"
#include "chord/v1/images.grpc.pb.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/rpc/deadline.h"
#include "common/rpc/status_map.h"
#include "services/gateway/codec.h"
#include "services/gateway/prompt.h"
#include "services/gateway/request_scope.h"

namespace chord::gateway {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;

// gRPC's own answer to a message that it cannot parse has no reason, and a prompt that is not UTF-8
// does not parse. So messages come raw, and what is wrong is told by looking again.
absl::Status WhyUnparsable(ByteBuffer bytes) {
  using google::protobuf::internal::WireFormatLite;
  const absl::Status malformed = errors::BodyMalformed("a chord.v1.GroundRequest");
  grpc::ProtoBufferReader reader(&bytes);
  google::protobuf::io::CodedInputStream in(&reader);
  while (const uint32_t tag = in.ReadTag()) {
    if (WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
      if (!WireFormatLite::SkipField(&in, tag)) return malformed;
      continue;
    }
    const int field = WireFormatLite::GetTagFieldNumber(tag);
    uint32_t length = 0;
    if (!in.ReadVarint32(&length)) return malformed;
    if (field == v1::GroundRequest::kPromptFieldNumber && length <= (1 << 20)) {
      std::string text;
      if (!in.ReadString(&text, static_cast<int>(length))) return malformed;
      if (!IsUtf8(text)) return errors::PromptNotUtf8();
    } else if (length > (1u << 30) || !in.Skip(static_cast<int>(length))) {
      return malformed;
    }
  }
  return malformed;
}

absl::Status Parse(ByteBuffer* bytes, v1::GroundRequest* request) {
  ByteBuffer again = *bytes;  // shares the slices
  if (grpc::SerializationTraits<v1::GroundRequest>::Deserialize(bytes, request).ok()) {
    return absl::OkStatus();
  }
  return WhyUnparsable(std::move(again));
}

template <typename Message>
ByteBuffer Serialize(const Message& message) {
  ByteBuffer out;
  bool own = false;
  (void)grpc::SerializationTraits<Message>::Serialize(message, &out, &own);
  return out;
}

// The client's own id, when it is well-formed, so that it can be echoed and logged.
std::string ClientId(const CallbackServerContext& context) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find("x-request-id");
  if (found == metadata.end()) return "";
  const std::string id(found->second.data(), found->second.size());
  const bool plain = id.size() >= 8 && id.size() <= 64 &&
                     id.find_first_not_of(
                         "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                         "0123456789_.-") == std::string::npos;
  return plain ? id : "";
}

struct Door {
  Grounder& grounder;
  Executor& executor;
  obs::Metrics& metrics;
};

// What both calls share: ids, cancellation, and a share of the call for whoever still uses it.
template <typename Reactor>
class Call : public Reactor, public std::enable_shared_from_this<Call<Reactor>> {
 public:
  Call(const Door& door, CallbackServerContext* context, obs::Method method)
      : door_(door), received_at_(absl::Now()), deadline_(rpc::DeadlineOf(*context)) {
    const std::string client_id = ClientId(*context);
    context->AddInitialMetadata("x-request-id", id_);
    if (!client_id.empty()) context->AddInitialMetadata("x-client-request-id", client_id);
    scope_.emplace(door.metrics, method, id_, client_id, received_at_);
  }

  void Begin(const ByteBuffer* bytes) {
    self_ = this->shared_from_this();
    if (absl::Status status = door_.grounder.Admission(); !status.ok()) return End(status);
    const bool taken = door_.executor.TryRun(
        [self = self_, bytes = *bytes]() mutable { self->End(self->Run(&bytes)); });
    if (!taken) End(errors::Overloaded(absl::Seconds(1)));
  }

  void OnCancel() override {
    cancel_.Cancel(absl::Now() >= deadline_ ? errors::DeadlineExceeded() : errors::Cancelled());
  }
  void OnDone() override { auto self = std::move(self_); }

 protected:
  virtual void Finished(const absl::StatusOr<GroundResult>& result) = 0;
  virtual std::function<void(absl::string_view)> OnDelta() { return nullptr; }

  Door door_;
  const std::string id_ = NewRequestId();

 private:
  absl::StatusOr<GroundResult> Run(ByteBuffer* bytes) {
    v1::GroundRequest request;
    if (absl::Status status = Parse(bytes, &request); !status.ok()) return status;
    bytes->Clear();
    GroundInput input;
    input.request_id = id_;
    input.received_at = received_at_;
    input.deadline = deadline_;
    input.cancel = cancel_.token();
    input.on_delta = OnDelta();
    if (absl::Status status = FromProto(request, input); !status.ok()) return status;
    return door_.grounder.Ground(input);
  }

  void End(const absl::StatusOr<GroundResult>& result) {
    scope_->End(result);
    Finished(result);
  }

  const absl::Time received_at_;
  const absl::Time deadline_;
  CancelSource cancel_;
  std::optional<RequestScope> scope_;
  std::shared_ptr<Call> self_;  // until OnDone
};

class UnaryCall final : public Call<grpc::ServerUnaryReactor> {
 public:
  UnaryCall(const Door& door, CallbackServerContext* context, ByteBuffer* response)
      : Call(door, context, obs::Method::kGround), response_(response) {}

 private:
  void Finished(const absl::StatusOr<GroundResult>& result) override {
    if (result.ok()) *response_ = Serialize(ToProto(*result));
    Finish(rpc::ToGrpc(result.status(), id_));
  }
  ByteBuffer* const response_;
};

class StreamCall final : public Call<grpc::ServerWriteReactor<ByteBuffer>> {
 public:
  StreamCall(const Door& door, CallbackServerContext* context)
      : Call(door, context, obs::Method::kGroundStream) {}

  void OnWriteDone(bool ok) override {
    if (!ok) OnCancel();
    absl::MutexLock lock(&mu_);
    writing_ = false;
    WriteNext();
  }

 private:
  // Text that piles up while the client reads goes as one event.
  std::function<void(absl::string_view)> OnDelta() override {
    return [this](absl::string_view text) {
      absl::MutexLock lock(&mu_);
      pending_.append(text.data(), text.size());
      WriteNext();
    };
  }

  void Finished(const absl::StatusOr<GroundResult>& result) override {
    absl::MutexLock lock(&mu_);
    if (result.ok()) {
      v1::GroundResponse response = ToProto(*result);
      for (const v1::Object& object : response.objects()) {
        v1::GroundEvent event;
        *event.mutable_object() = object;
        last_.push_back(Serialize(event));
      }
      v1::GroundEvent event;
      *event.mutable_response() = std::move(response);
      last_.push_back(Serialize(event));
    } else {
      pending_.clear();
    }
    status_ = rpc::ToGrpc(result.status(), id_);
    WriteNext();
  }

  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || finished_) return;
    if (!pending_.empty()) {
      v1::GroundEvent event;
      event.set_text_delta(std::exchange(pending_, {}));
      event_ = Serialize(event);
    } else if (!last_.empty()) {
      event_ = std::move(last_.front());
      last_.pop_front();
    } else {
      if (status_) {
        finished_ = true;
        Finish(*status_);
      }
      return;
    }
    writing_ = true;
    StartWrite(&event_);
  }

  absl::Mutex mu_;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  std::string pending_ ABSL_GUARDED_BY(mu_);
  std::deque<ByteBuffer> last_ ABSL_GUARDED_BY(mu_);
  std::optional<grpc::Status> status_ ABSL_GUARDED_BY(mu_);
  ByteBuffer event_ ABSL_GUARDED_BY(mu_);  // being written
};

// The answer of a method that is promised and not there yet.
template <typename Reactor>
class NotYet final : public Reactor {
 public:
  explicit NotYet(absl::string_view feature) {
    this->Finish(rpc::ToGrpc(errors::NotImplementedYet(feature), NewRequestId()));
  }
  void OnDone() override { delete this; }
};

using GroundingBase =
    v1::Grounding::WithRawCallbackMethod_Ground<v1::Grounding::WithRawCallbackMethod_GroundStream<
        v1::Grounding::WithCallbackMethod_GroundBatch<v1::Grounding::Service>>>;

class GroundingService final : public GroundingBase {
 public:
  explicit GroundingService(const Door& door) : door_(door) {}

  grpc::ServerUnaryReactor* Ground(CallbackServerContext* context, const ByteBuffer* request,
                                   ByteBuffer* response) override {
    auto call = std::make_shared<UnaryCall>(door_, context, response);
    auto* reactor = call.get();
    reactor->Begin(request);
    return reactor;
  }
  grpc::ServerWriteReactor<ByteBuffer>* GroundStream(CallbackServerContext* context,
                                                     const ByteBuffer* request) override {
    auto call = std::make_shared<StreamCall>(door_, context);
    auto* reactor = call.get();
    reactor->Begin(request);
    return reactor;
  }
  grpc::ServerBidiReactor<v1::GroundBatchRequest, v1::GroundBatchResponse>* GroundBatch(
      CallbackServerContext*) override {
    return new NotYet<grpc::ServerBidiReactor<v1::GroundBatchRequest, v1::GroundBatchResponse>>(
        "batches");
  }

 private:
  const Door door_;
};

class ImagesService final : public v1::Images::CallbackService {
  static constexpr char kFeature[] = "pictures kept for many questions";
  using Unary = NotYet<grpc::ServerUnaryReactor>;

 public:
  grpc::ServerReadReactor<v1::UploadRequest>* Upload(CallbackServerContext*, v1::Image*) override {
    return new NotYet<grpc::ServerReadReactor<v1::UploadRequest>>(kFeature);
  }
  grpc::ServerUnaryReactor* Touch(CallbackServerContext*, const v1::ImageRef*,
                                  v1::Image*) override {
    return new Unary(kFeature);
  }
  grpc::ServerUnaryReactor* Delete(CallbackServerContext*, const v1::ImageRef*,
                                   v1::DeleteImageResponse*) override {
    return new Unary(kFeature);
  }
};

class AdminService final : public v1::Admin::CallbackService {
  static constexpr char kFeature[] = "changing models while it runs";
  using Unary = NotYet<grpc::ServerUnaryReactor>;
  using Context = CallbackServerContext;

 public:
  grpc::ServerUnaryReactor* ListModels(Context*, const v1::ListModelsRequest*,
                                       v1::ListModelsResponse*) override {
    return new Unary(kFeature);
  }
  grpc::ServerUnaryReactor* PlanModel(Context*, const v1::ModelRef*, v1::ModelPlan*) override {
    return new Unary(kFeature);
  }
  grpc::ServerUnaryReactor* LoadModel(Context*, const v1::ModelRef*, v1::ModelState*) override {
    return new Unary(kFeature);
  }
  grpc::ServerUnaryReactor* SwapModel(Context*, const v1::ModelRef*, v1::ModelState*) override {
    return new Unary(kFeature);
  }
  grpc::ServerUnaryReactor* RollBack(Context*, const v1::RollBackRequest*,
                                     v1::ModelState*) override {
    return new Unary(kFeature);
  }
};

}  // namespace

std::vector<std::unique_ptr<grpc::Service>> GrpcServices(Grounder& grounder, Executor& executor,
                                                         obs::Metrics& metrics) {
  std::vector<std::unique_ptr<grpc::Service>> out;
  out.push_back(std::make_unique<GroundingService>(Door{grounder, executor, metrics}));
  out.push_back(std::make_unique<ImagesService>());
  out.push_back(std::make_unique<AdminService>());
  return out;
}

}  // namespace chord::gateway
