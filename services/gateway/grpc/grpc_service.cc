#include "services/gateway/grpc/grpc_service.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "chord/v1/admin.grpc.pb.h"
#include "chord/v1/grounding.grpc.pb.h"
#include "chord/v1/images.grpc.pb.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/rpc/deadline.h"
#include "common/rpc/raw_call.h"
#include "common/rpc/status_map.h"
#include "common/text/unicode.h"
#include "services/gateway/grpc/proto_codec.h"
#include "services/gateway/parallel_for.h"
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

// Requests of one GroundBatch that are asked at once; while as many are, no more is read.
constexpr int kStreamWidth = 16;
// An upload has this long for each stretch of kUploadStretch bytes, and for its rest.
constexpr absl::Duration kUploadTime = absl::Seconds(20);
constexpr int64_t kUploadStretch = 160 << 10;
// Of an image that comes in small chunks; its header is looked at again when twice as much is
// there, so that looking costs no more than the image.
constexpr size_t kFirstProbeBytes = 4 << 10;
// Fields of one prompt or other message, those of a newer client included.
constexpr int kMaxFields = 100;
constexpr size_t kMaxSmallBytes = 64 << 10;  // of a message without an image

template <typename Message>
absl::Status ParseAs(ByteBuffer* bytes, absl::string_view name, Message* message,
                     int max_fields = kMaxFields) {
  const auto fields = rpc::ParseRaw(bytes, max_fields, message);
  if (fields == rpc::FieldCount::kTooMany) {
    return errors::BodyMalformed(
        absl::StrCat("a chord.v1.", name, " of at most ", max_fields, " fields"));
  }
  if (fields == rpc::FieldCount::kFew) return absl::OkStatus();
  return errors::BodyMalformed(absl::StrCat("a chord.v1.", name, " whose texts are UTF-8"));
}

absl::Status Parse(ByteBuffer* bytes, v1::GroundRequest* request) {
  ByteBuffer again = *bytes;  // shares the slices
  const absl::Status status = ParseAs(bytes, "GroundRequest", request);
  if (status.ok() || rpc::CountFields(again, v1::GroundRequest::descriptor(), kMaxFields) !=
                         rpc::FieldCount::kFew) {
    return status;
  }
  return WhyUnparsable(std::move(again));
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

v1::Error ErrorProto(const absl::Status& status, absl::string_view request_id) {
  const absl::Status shown = ForClient(status);
  v1::Error out;
  out.set_code(static_cast<int>(shown.code()));
  out.set_reason(ErrorReason(shown));
  out.set_message(std::string(shown.message()));
  out.set_request_id(std::string(request_id));
  out.set_retry_after_seconds(absl::ToDoubleSeconds(RetryAfter(shown)));
  return out;
}

// What is echoed of a tag: whole when it is of the size it may have, and never half a character,
// which no client could read.
std::string Echo(absl::string_view tag) {
  std::string out(tag.substr(0, limits::kMaxTagBytes));
  out.resize(out.size() - text::IncompleteTail(out));
  return out;
}

// Tells the client the id of its call, and its own beside it. The client's, or "".
std::string Announce(CallbackServerContext* context, const std::string& id) {
  std::string client_id = ClientId(*context);
  context->AddInitialMetadata("x-request-id", id);
  if (!client_id.empty()) context->AddInitialMetadata("x-client-request-id", client_id);
  return client_id;
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
      : door_(door),
        context_(context),
        client_(ClientOfGrpcPeer(context->peer())),
        received_at_(absl::Now()),
        deadline_(rpc::DeadlineOf(*context)) {
    const std::string client_id = Announce(context, id_);
    scope_.emplace(door.metrics, method, id_, client_id, received_at_);
  }

  void Begin(const ByteBuffer* bytes) {
    self_ = this->shared_from_this();
    if (context_->IsCancelled()) return Refuse(errors::Cancelled());  // nobody waits for it
    if (absl::Status status = door_.grounder.CheckAdmission(client_); !status.ok())
      return Refuse(status);
    if (absl::Status status = CheckSize(*bytes); !status.ok()) return Refuse(status);
    const bool taken =
        door_.executor.TryRun([self = self_, bytes = *bytes]() mutable { self->Work(&bytes); });
    if (!taken) Refuse(errors::Overloaded(door_.grounder.admission().RetryAfter()));
  }

  void OnCancel() override {
    cancel_.Cancel(absl::Now() >= deadline_ ? errors::DeadlineExceeded() : errors::Cancelled());
  }
  void OnDone() override { auto self = std::move(self_); }

 protected:
  // On a thread of the executor; ends the call.
  virtual void Work(ByteBuffer* bytes) = 0;
  virtual void Refuse(const absl::Status& status) = 0;

  GroundInput NewInput() const {
    GroundInput input;
    input.request_id = id_;
    input.client = client_;
    input.received_at = received_at_;
    input.deadline = deadline_;
    input.cancel = cancel_.token();
    return input;
  }
  // One prompt of a batch, with its own id, time and entry in metrics and log.
  v1::GroundBatchResponse AskItem(const v1::GroundBatchRequest& item) {
    const std::string id = NewRequestId();
    RequestScope scope(door_.metrics, obs::Method::kBatchItem, id, "", absl::Now());
    const auto ask = [&]() -> absl::StatusOr<GroundResult> {
      if (item.tag().size() > static_cast<size_t>(limits::kMaxTagBytes)) {
        return errors::ParameterInvalid("tag", "text of at most 64 bytes");
      }
      GroundInput input = NewInput();
      input.request_id = id;
      input.received_at = absl::Now();
      CHORD_RETURN_IF_ERROR(input.cancel.Check());
      CHORD_RETURN_IF_ERROR(FromProto(item.request(), input));
      return door_.grounder.Ground(input);
    };
    const absl::StatusOr<GroundResult> result = ask();
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

  absl::Status CheckSize(const ByteBuffer& bytes) const {
    const int64_t limit = door_.grounder.images().limits().max_bytes + kMessageSlackBytes;
    if (static_cast<int64_t>(bytes.Length()) <= limit) return absl::OkStatus();
    return errors::BodyTooLarge(limit);
  }

  Door door_;
  CallbackServerContext* const context_;
  const std::string id_ = NewRequestId();
  const std::string client_;
  const absl::Time received_at_;
  const absl::Time deadline_;
  CancelSource cancel_;
  std::optional<RequestScope> scope_;
  std::shared_ptr<Call> self_;  // until OnDone
};

// A call that asks one prompt.
template <typename Reactor>
class SingleRequestCall : public Call<Reactor> {
 protected:
  using Call<Reactor>::Call;
  virtual void Finished(const absl::StatusOr<GroundResult>& result) = 0;
  virtual void Listen(GroundInput&) {}

 private:
  void Work(ByteBuffer* bytes) override { End(Run(bytes)); }
  void Refuse(const absl::Status& status) override { End(status); }

  absl::StatusOr<GroundResult> Run(ByteBuffer* bytes) {
    v1::GroundRequest request;
    CHORD_RETURN_IF_ERROR(Parse(bytes, &request));
    bytes->Clear();
    GroundInput input = this->NewInput();
    Listen(input);
    CHORD_RETURN_IF_ERROR(FromProto(request, input));
    return this->door_.grounder.Ground(input);
  }

  void End(const absl::StatusOr<GroundResult>& result) {
    this->scope_->End(result);
    Finished(result);
  }
};

class UnaryCall final : public SingleRequestCall<grpc::ServerUnaryReactor> {
 public:
  UnaryCall(const Door& door, CallbackServerContext* context, ByteBuffer* response)
      : SingleRequestCall(door, context, obs::Method::kGround), response_(response) {}

 private:
  void Finished(const absl::StatusOr<GroundResult>& result) override {
    if (result.ok()) *response_ = rpc::SerializeRaw(ToProto(*result));
    Finish(rpc::ToGrpc(result.status(), id_));
  }
  ByteBuffer* const response_;
};

class StreamCall final : public SingleRequestCall<grpc::ServerWriteReactor<ByteBuffer>> {
 public:
  StreamCall(const Door& door, CallbackServerContext* context)
      : SingleRequestCall(door, context, obs::Method::kGroundStream) {}

  void OnWriteDone(bool ok) override {
    if (!ok) OnCancel();
    absl::MutexLock lock(&mu_);
    writing_ = false;
    WriteNext();
  }

 private:
  // Text that piles up while the client reads goes as one event, before the objects in it.
  void Listen(GroundInput& input) override {
    input.on_delta = [this](absl::string_view text) {
      absl::MutexLock lock(&mu_);
      pending_.append(text.data(), text.size());
      WriteNext();
    };
    input.on_object = [this](const GroundObject& object) {
      v1::GroundEvent event;
      *event.mutable_object() = ToProto(object);
      absl::MutexLock lock(&mu_);
      events_.push_back(rpc::SerializeRaw(event));
      WriteNext();
    };
  }

  void Finished(const absl::StatusOr<GroundResult>& result) override {
    absl::MutexLock lock(&mu_);
    if (result.ok()) {
      v1::GroundEvent event;
      *event.mutable_response() = ToProto(*result);
      events_.push_back(rpc::SerializeRaw(event));
    } else {
      pending_.clear();
      events_.clear();
    }
    status_ = rpc::ToGrpc(result.status(), id_);
    WriteNext();
  }

  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || finished_) return;
    if (!pending_.empty()) {
      v1::GroundEvent event;
      event.set_text_delta(std::exchange(pending_, {}));
      event_ = rpc::SerializeRaw(event);
    } else if (!events_.empty()) {
      event_ = std::move(events_.front());
      events_.pop_front();
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
  std::deque<ByteBuffer> events_ ABSL_GUARDED_BY(mu_);
  std::optional<grpc::Status> status_ ABSL_GUARDED_BY(mu_);
  ByteBuffer event_ ABSL_GUARDED_BY(mu_);  // being written
};

// A list of prompts, a few at a time; one answer with all of theirs.
class ListCall final : public Call<grpc::ServerUnaryReactor> {
 public:
  ListCall(const Door& door, CallbackServerContext* context, ByteBuffer* response)
      : Call(door, context, obs::Method::kGroundBatch), response_(response) {}

 private:
  void Work(ByteBuffer* bytes) override {
    v1::GroundListRequest request;
    const int limit = door_.grounder.options().max_batch;
    // Counted before it is parsed: it may have millions.
    const int announced = rpc::CountField(*bytes, v1::GroundListRequest::kRequestsFieldNumber);
    absl::Status status = announced > limit
                              ? errors::BatchLimit(announced, limit)
                              : ParseAs(bytes, "GroundListRequest", &request, kMaxFields * limit);
    bytes->Clear();
    const int count = request.requests_size();
    if (status.ok() && count < 1) status = errors::BatchLimit(count, limit);
    if (!status.ok()) return Refuse(status);
    v1::GroundListResponse response;
    for (int i = 0; i < count; ++i) response.add_results();
    ParallelFor(door_.executor, count, kBatchWidth,
                [&](int i) { *response.mutable_results(i) = AskItem(request.requests(i)); });
    if (status = cancel_.token().Check(); !status.ok()) return Refuse(status);
    *response_ = rpc::SerializeRaw(response);
    scope_->EndWithout(status);
    Finish(grpc::Status::OK);
  }
  void Refuse(const absl::Status& status) override {
    scope_->EndWithout(status);
    Finish(rpc::ToGrpc(status, id_));
  }
  ByteBuffer* const response_;
};

// Requests as they come, answers as they finish. Reads no further while as many prompts as may
// be are asked or answered and not yet taken by the client: its window fills, and it waits.
class BatchCall final : public Call<grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>>,
                        public OpenStreams::Stream {
 public:
  BatchCall(const Door& door, CallbackServerContext* context)
      : Call(door, context, obs::Method::kGroundBatch) {}

  void Open(OpenStreams& streams) {
    self_ = shared_from_this();
    {
      absl::MutexLock lock(&mu_);
      StartRead(&read_);
    }
    streams.Add(std::static_pointer_cast<BatchCall>(self_));
  }

  void EndWhenIdle(const absl::Status& why) override {
    absl::MutexLock lock(&mu_);
    // A client that has asked everything gets its answers, and its end is OK.
    if (read_all_) return;
    read_all_ = true;
    status_ = why;
    Advance();
  }

  void OnReadDone(bool ok) override {
    absl::MutexLock lock(&mu_);
    reading_ = false;
    if (!ok || read_all_) {  // the client's last word, or ours came before its next prompt
      read_all_ = true;
      return Advance();
    }
    v1::GroundBatchRequest item;
    absl::Status status = CheckSize(read_);
    if (status.ok()) status = ParseAs(&read_, "GroundBatchRequest", &item);
    if (!status.ok()) {
      status_ = status;  // nothing after it can be told apart
      read_all_ = true;
      cancel_.Cancel(status);
      return Advance();
    }
    ++running_;
    auto shared = std::make_shared<v1::GroundBatchRequest>(std::move(item));
    const bool taken = door_.executor.TryRun([self = self_, this, shared] {
      v1::GroundBatchResponse answer = AskItem(*shared);
      absl::MutexLock task_lock(&mu_);
      --running_;
      answers_.push_back(rpc::SerializeRaw(answer));
      Advance();
    });
    if (!taken) {
      --running_;
      v1::GroundBatchResponse answer;
      answer.set_tag(Echo(shared->tag()));
      const absl::Status busy = errors::Overloaded(door_.grounder.admission().RetryAfter());
      *answer.mutable_error() = ErrorProto(busy, id_);
      door_.metrics.Rejected(ErrorReason(busy));
      answers_.push_back(rpc::SerializeRaw(answer));
    }
    Advance();
  }

  void OnWriteDone(bool ok) override {
    if (!ok) OnCancel();
    absl::MutexLock lock(&mu_);
    writing_ = false;
    Advance();
  }

 private:
  void Work(ByteBuffer*) override {}
  void Refuse(const absl::Status&) override {}

  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (finished_) return;
    if (!writing_ && !answers_.empty()) {
      write_ = std::move(answers_.front());
      answers_.pop_front();
      writing_ = true;
      StartWrite(&write_);
    }
    const int held = running_ + static_cast<int>(answers_.size()) + (writing_ ? 1 : 0);
    if (!read_all_ && !reading_ && held < kStreamWidth) {
      reading_ = true;
      read_.Clear();
      StartRead(&read_);
    }
    // A read that waits for what the client may never send ends with the call.
    if (read_all_ && running_ == 0 && answers_.empty() && !writing_) {
      finished_ = true;
      if (status_.ok()) status_ = cancel_.token().Check();
      scope_->EndWithout(status_);
      Finish(rpc::ToGrpc(status_, id_));
    }
  }

  absl::Mutex mu_;
  ByteBuffer read_ ABSL_GUARDED_BY(mu_), write_ ABSL_GUARDED_BY(mu_);
  std::deque<ByteBuffer> answers_ ABSL_GUARDED_BY(mu_);
  bool reading_ ABSL_GUARDED_BY(mu_) = true;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool read_all_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  int running_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
};

using GroundingBase =
    v1::Grounding::WithRawCallbackMethod_Ground<v1::Grounding::WithRawCallbackMethod_GroundStream<
        v1::Grounding::WithRawCallbackMethod_GroundList<
            v1::Grounding::WithRawCallbackMethod_GroundBatch<v1::Grounding::Service>>>>;

class GroundingService final : public GroundingBase {
 public:
  GroundingService(const Door& door, OpenStreams& streams) : door_(door), streams_(streams) {}

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
  grpc::ServerUnaryReactor* GroundList(CallbackServerContext* context, const ByteBuffer* request,
                                       ByteBuffer* response) override {
    auto call = std::make_shared<ListCall>(door_, context, response);
    auto* reactor = call.get();
    reactor->Begin(request);
    return reactor;
  }
  grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* GroundBatch(
      CallbackServerContext* context) override {
    auto call = std::make_shared<BatchCall>(door_, context);
    auto* reactor = call.get();
    reactor->Open(streams_);
    return reactor;
  }

 private:
  const Door door_;
  OpenStreams& streams_;
};

void FillImage(const ImageService::Kept& kept, v1::Image& out) {
  out.set_image_id(kept.id);
  out.mutable_image_size()->set_width(kept.size.width);
  out.mutable_image_size()->set_height(kept.size.height);
  const int64_t micros = absl::ToUnixMicros(kept.expires_at);
  out.mutable_expires_at()->set_seconds(micros / 1'000'000);
  out.mutable_expires_at()->set_nanos(static_cast<int32_t>(micros % 1'000'000 * 1000));
}

// An image in chunks. Its place is taken before its bytes, what is wrong with its header is told
// as soon as the header is there, and one that comes too slowly is cut off.
class UploadCall final : public grpc::ServerReadReactor<ByteBuffer> {
 public:
  UploadCall(const Door& door, CallbackServerContext* context, ByteBuffer* image)
      : door_(door), context_(context), image_(image), client_(ClientOfGrpcPeer(context->peer())) {
    const std::string client_id = Announce(context, id_);
    scope_.emplace(door.metrics, obs::Method::kUploadImage, id_, client_id, absl::Now());
    GiveTime();
    StartRead(&read_);
  }

  void OnReadDone(bool ok) override {
    if (finished_) return;  // its time was up
    absl::Status status = ok ? Take() : absl::OkStatus();
    if (ok && status.ok()) {
      if (finished_) return;
      read_.Clear();
      return StartRead(&read_);
    }
    if (status.ok()) status = Keep();
    End(status);
  }
  void OnCancel() override {}  // ends the read
  void OnDone() override {
    TakeTime();
    delete this;
  }

 private:
  // The alarm may fire while the call ends.
  struct Timer {
    absl::Mutex mu;
    UploadCall* call ABSL_GUARDED_BY(mu) = nullptr;
  };

  void TakeTime() {
    alarm_ = nullptr;
    if (timer_ == nullptr) return;
    absl::MutexLock lock(&timer_->mu);
    timer_->call = nullptr;
  }

  void GiveTime() {
    TakeTime();
    stretch_ = 0;
    // A new one each time: what was set on the old one may be on its way.
    alarm_ = std::make_unique<grpc::Alarm>();
    timer_ = std::make_shared<Timer>();
    {
      absl::MutexLock lock(&timer_->mu);
      timer_->call = this;
    }
    alarm_->Set(absl::ToChronoTime(absl::Now() + kUploadTime), [timer = timer_](bool expired) {
      absl::MutexLock lock(&timer->mu);
      if (expired && timer->call != nullptr) timer->call->End(errors::RequestTimeout());
    });
  }

  absl::Status Take() {
    ImageService& images = door_.grounder.images();
    if (read_.Length() > limits::kMaxChunkBytes + kMaxSmallBytes) return errors::UploadMismatch();
    v1::UploadRequest request;
    CHORD_RETURN_IF_ERROR(ParseAs(&read_, "UploadRequest", &request));
    if (request.has_start()) {
      if (total_ > 0) return errors::UploadMismatch();
      total_ = request.start().total_bytes();
      pin_ = request.start().pin();
      const int64_t limit = images.limits().max_bytes;
      if (total_ < 1) return errors::ImageEmpty();
      if (total_ > limit) return errors::ImageBytesLimit(total_, limit);
      CHORD_RETURN_IF_ERROR(images.Room(total_, pin_));
      CHORD_ASSIGN_OR_RETURN(slot_, door_.grounder.admission().EnterUpload(client_, 0));
      return absl::OkStatus();
    }
    const std::string& chunk = request.chunk();
    if (total_ == 0 || chunk.empty() || chunk.size() > limits::kMaxChunkBytes ||
        static_cast<int64_t>(bytes_.size() + chunk.size()) > total_) {
      return errors::UploadMismatch();
    }
    CHORD_RETURN_IF_ERROR(slot_.Grow(static_cast<int64_t>(chunk.size())));
    bytes_ += chunk;
    stretch_ += static_cast<int64_t>(chunk.size());
    if (stretch_ >= kUploadStretch) GiveTime();
    if (planned_ || static_cast<int64_t>(bytes_.size()) == total_ || bytes_.size() < next_probe_) {
      return absl::OkStatus();
    }
    next_probe_ = 2 * bytes_.size();
    const absl::Status plan = images.Plan(bytes_).status();
    planned_ = plan.ok();
    // A header that goes on in the next chunk looks like a file that was cut.
    if (planned_ || ErrorReason(plan) == "IMAGE_CORRUPT") {
      if (planned_) bytes_.reserve(static_cast<size_t>(total_));
      return absl::OkStatus();
    }
    return plan;
  }

  absl::Status Keep() {
    if (context_->IsCancelled()) return errors::Cancelled();
    if (total_ == 0 || static_cast<int64_t>(bytes_.size()) != total_) {
      return errors::UploadMismatch();
    }
    door_.metrics.ImageReceived(total_);
    CHORD_ASSIGN_OR_RETURN(const ImageService::Kept kept,
                           door_.grounder.images().Upload(std::move(bytes_), pin_));
    v1::Image image;
    FillImage(kept, image);
    *image_ = rpc::SerializeRaw(image);
    return absl::OkStatus();
  }

  // The first who comes to an end, the reader or the alarm, tells it. What the reader may be at
  // work on goes with the call.
  void End(const absl::Status& status) {
    if (finished_.exchange(true)) return;
    scope_->EndWithout(status);
    Finish(rpc::ToGrpc(status, id_));
  }

  const Door door_;
  CallbackServerContext* const context_;
  ByteBuffer* const image_;
  const std::string client_;
  const std::string id_ = NewRequestId();
  std::optional<RequestScope> scope_;
  std::unique_ptr<grpc::Alarm> alarm_;
  std::shared_ptr<Timer> timer_;
  ByteBuffer read_;
  Admission::Slot slot_;
  std::string bytes_;
  int64_t total_ = 0;
  int64_t stretch_ = 0;  // bytes since the time was given
  size_t next_probe_ = kFirstProbeBytes;
  std::atomic<bool> finished_{false};
  bool pin_ = false;
  bool planned_ = false;
};

// A unary call that is answered at once.
class AtOnce final : public grpc::ServerUnaryReactor {
 public:
  AtOnce(CallbackServerContext* context, obs::Metrics& metrics, const absl::Status& status)
      : AtOnce(context) {
    if (!status.ok()) Refused(metrics, id_, status);
    Finish(rpc::ToGrpc(status, id_));
  }
  // Of a method that is promised and not there yet.
  static AtOnce* NotYet(CallbackServerContext* context, obs::Metrics& metrics, obs::Method method,
                        absl::string_view feature) {
    const absl::Status status = errors::NotImplementedYet(feature);
    auto* out = new AtOnce(context);
    RequestScope(metrics, method, out->id_, out->client_id_, absl::Now()).EndWithout(status);
    out->Finish(rpc::ToGrpc(status, out->id_));
    return out;
  }
  void OnDone() override { delete this; }

 private:
  explicit AtOnce(CallbackServerContext* context) : client_id_(Announce(context, id_)) {}
  const std::string id_ = NewRequestId();
  const std::string client_id_;
};

using ImagesBase = v1::Images::WithRawCallbackMethod_Upload<v1::Images::WithRawCallbackMethod_Touch<
    v1::Images::WithRawCallbackMethod_Delete<v1::Images::Service>>>;

class ImagesService final : public ImagesBase {
 public:
  explicit ImagesService(const Door& door) : door_(door) {}

  grpc::ServerReadReactor<ByteBuffer>* Upload(CallbackServerContext* context,
                                              ByteBuffer* image) override {
    return new UploadCall(door_, context, image);
  }
  grpc::ServerUnaryReactor* Touch(CallbackServerContext* context, const ByteBuffer* request,
                                  ByteBuffer* image) override {
    const auto touch = [&]() -> absl::Status {
      CHORD_ASSIGN_OR_RETURN(const std::string id, ImageId(*request));
      CHORD_ASSIGN_OR_RETURN(const ImageService::Kept kept, door_.grounder.images().Touch(id));
      v1::Image out;
      FillImage(kept, out);
      *image = rpc::SerializeRaw(out);
      return absl::OkStatus();
    };
    return new AtOnce(context, door_.metrics, touch());
  }
  grpc::ServerUnaryReactor* Delete(CallbackServerContext* context, const ByteBuffer* request,
                                   ByteBuffer* response) override {
    const auto forget = [&]() -> absl::Status {
      CHORD_ASSIGN_OR_RETURN(const std::string id, ImageId(*request));
      CHORD_RETURN_IF_ERROR(door_.grounder.images().Delete(id));
      *response = rpc::SerializeRaw(v1::DeleteImageResponse());
      return absl::OkStatus();
    };
    return new AtOnce(context, door_.metrics, forget());
  }

 private:
  static absl::StatusOr<std::string> ImageId(ByteBuffer bytes) {
    if (bytes.Valid() && bytes.Length() > kMaxSmallBytes) {
      return errors::BodyTooLarge(kMaxSmallBytes);
    }
    v1::ImageRef request;
    CHORD_RETURN_IF_ERROR(ParseAs(&bytes, "ImageRef", &request));
    return request.image_id();
  }

  const Door door_;
};

using AdminBase =
    v1::Admin::WithRawCallbackMethod_ListModels<v1::Admin::WithRawCallbackMethod_PlanModel<
        v1::Admin::WithRawCallbackMethod_LoadModel<v1::Admin::WithRawCallbackMethod_SwapModel<
            v1::Admin::WithRawCallbackMethod_RollBack<v1::Admin::Service>>>>>;

// Whatever the message is, nobody reads it yet.
class AdminService final : public AdminBase {
  using Unary = grpc::ServerUnaryReactor;
  using Context = CallbackServerContext;

 public:
  explicit AdminService(obs::Metrics& metrics) : metrics_(metrics) {}
  Unary* ListModels(Context* context, const ByteBuffer*, ByteBuffer*) override {
    return NotYet(context);
  }
  Unary* PlanModel(Context* context, const ByteBuffer*, ByteBuffer*) override {
    return NotYet(context);
  }
  Unary* LoadModel(Context* context, const ByteBuffer*, ByteBuffer*) override {
    return NotYet(context);
  }
  Unary* SwapModel(Context* context, const ByteBuffer*, ByteBuffer*) override {
    return NotYet(context);
  }
  Unary* RollBack(Context* context, const ByteBuffer*, ByteBuffer*) override {
    return NotYet(context);
  }

 private:
  Unary* NotYet(Context* context) {
    return AtOnce::NotYet(context, metrics_, obs::Method::kAdmin, "changing models while it runs");
  }
  obs::Metrics& metrics_;
};

}  // namespace

void OpenStreams::Add(std::weak_ptr<Stream> stream) {
  absl::Status why;
  {
    absl::MutexLock lock(&mu_);
    why = why_;
    if (why.ok()) {
      // Not each time: thousands may be open.
      if (streams_.size() >= look_at_) {
        streams_.erase(std::remove_if(streams_.begin(), streams_.end(),
                                      [](const auto& known) { return known.expired(); }),
                       streams_.end());
        look_at_ = std::max<size_t>(64, 2 * streams_.size());
      }
      streams_.push_back(std::move(stream));
      return;
    }
  }
  if (const auto late = stream.lock()) late->EndWhenIdle(why);
}

void OpenStreams::End(const absl::Status& why) {
  std::vector<std::weak_ptr<Stream>> streams;
  {
    absl::MutexLock lock(&mu_);
    if (!why_.ok()) return;
    why_ = why;
    streams = std::move(streams_);
    streams_.clear();
  }
  for (const auto& weak : streams) {
    if (const auto stream = weak.lock()) stream->EndWhenIdle(why);
  }
}

std::vector<std::unique_ptr<grpc::Service>> GrpcServices(Grounder& grounder, Executor& executor,
                                                         obs::Metrics& metrics,
                                                         OpenStreams& streams) {
  std::vector<std::unique_ptr<grpc::Service>> out;
  out.push_back(std::make_unique<GroundingService>(Door{grounder, executor, metrics}, streams));
  out.push_back(std::make_unique<ImagesService>(Door{grounder, executor, metrics}));
  out.push_back(std::make_unique<AdminService>(metrics));
  return out;
}

std::vector<std::string> GrpcServiceNames() {
  return {v1::Grounding::service_full_name(), v1::Images::service_full_name(),
          v1::Admin::service_full_name()};
}

}  // namespace chord::gateway
