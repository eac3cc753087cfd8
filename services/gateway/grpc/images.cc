#include "services/gateway/grpc/images.h"

#include <grpcpp/grpcpp.h>

#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "chord/v1/images.grpc.pb.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "services/gateway/grpc/call_support.h"
#include "services/gateway/grpc/immediate_call.h"
#include "services/gateway/request_scope.h"

namespace chord::gateway {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;

// An upload has this long for each stretch of kUploadStretch bytes, and for its rest.
constexpr absl::Duration kUploadTime = absl::Seconds(20);
constexpr int64_t kUploadStretch = 160 << 10;
// Of an image that comes in small chunks; its header is looked at again when twice as much is
// there, so that looking costs no more than the image.
constexpr size_t kFirstProbeBytes = 4 << 10;

void FillImage(const ImageService::Kept& stored, v1::Image& out) {
  out.set_image_id(stored.id);
  out.mutable_image_size()->set_width(stored.size.width);
  out.mutable_image_size()->set_height(stored.size.height);
  const int64_t micros = absl::ToUnixMicros(stored.expires_at);
  out.mutable_expires_at()->set_seconds(micros / 1'000'000);
  out.mutable_expires_at()->set_nanos(static_cast<int32_t>(micros % 1'000'000 * 1000));
}

// An image in chunks. Its slot is taken before its bytes, what is wrong with its header is told
// as soon as the header is there, and one that comes too slowly is cut off.
class UploadCall final : public rpc::ServerCall<grpc::ServerReadReactor<ByteBuffer>> {
 public:
  UploadCall(const EndpointDeps& deps, CallbackServerContext* context, ByteBuffer* image)
      : ServerCall(absl::InfiniteFuture(), absl::InfiniteDuration()),
        deps_(deps),
        context_(context),
        image_(image),
        caller_(IdentifyCaller(deps, *context)),
        client_(caller_.ok() ? caller_->id : ""),
        scope_(deps.metrics, obs::Method::kUploadImage, id_, Announce(context, id_), received()) {
    if (caller_.ok()) scope_.set_api_key(caller_->key);
  }

  void OnReadDone(bool ok) override {
    if (ended()) return;  // it stalled
    absl::Status status = ok ? Take() : Store();
    if (!ok || !status.ok()) return (void)End(status);
    ReadNext();
  }
  // An upload under way at shutdown may finish.
  void OnShutdown(const absl::Status&) override {}

 private:
  void Begin() override {
    if (!caller_.ok()) return (void)End(caller_.status());
    StartStretch();
    ReadNext();
  }
  void OnClientCancel(const absl::Status&) override {}  // ends the read
  void OnEnd(const absl::Status& status) override {
    scope_.EndWithout(status);
    Finish(rpc::ToGrpc(status, id_));
  }

  void ReadNext() {
    read_.Clear();
    StartUnlessEnded([this] { StartRead(&read_); });
  }
  void StartStretch() {
    stretch_ = 0;
    SetStall(absl::Now() + kUploadTime, errors::RequestTimeout());
  }

  absl::Status Take() {
    if (read_.Length() > limits::kMaxChunkBytes + kMaxSmallBytes) return errors::UploadMismatch();
    v1::UploadRequest request;
    CHORD_RETURN_IF_ERROR(ParseAs(&read_, "UploadRequest", &request));
    return request.has_start() ? TakeStart(request.start()) : TakeChunk(request.chunk());
  }

  absl::Status TakeStart(const v1::UploadStart& start) {
    if (total_ > 0) return errors::UploadMismatch();
    total_ = start.total_bytes();
    pin_ = start.pin();
    const int64_t limit = deps_.images.limits().max_bytes;
    if (total_ < 1) return errors::ImageEmpty();
    if (total_ > limit) return errors::ImageBytesLimit(total_, limit);
    CHORD_RETURN_IF_ERROR(deps_.images.CheckRoom(total_, pin_));
    CHORD_ASSIGN_OR_RETURN(slot_, deps_.admission.EnterUpload(client_, 0));
    return absl::OkStatus();
  }

  absl::Status TakeChunk(const std::string& chunk) {
    if (total_ == 0 || chunk.empty() || chunk.size() > limits::kMaxChunkBytes ||
        static_cast<int64_t>(bytes_.size() + chunk.size()) > total_) {
      return errors::UploadMismatch();
    }
    CHORD_RETURN_IF_ERROR(slot_.Grow(static_cast<int64_t>(chunk.size())));
    bytes_ += chunk;
    stretch_ += static_cast<int64_t>(chunk.size());
    if (stretch_ >= kUploadStretch) StartStretch();
    return ProbeHeader();
  }

  absl::Status ProbeHeader() {
    if (planned_ || static_cast<int64_t>(bytes_.size()) == total_ || bytes_.size() < next_probe_) {
      return absl::OkStatus();
    }
    next_probe_ = 2 * bytes_.size();
    const absl::Status plan = deps_.images.Plan(bytes_).status();
    planned_ = plan.ok();
    if (planned_) bytes_.reserve(static_cast<size_t>(total_));
    // A header that goes on in the next chunk looks like a file that was cut.
    return errors::Is(plan, Reason::kImageCorrupt) ? absl::OkStatus() : plan;
  }

  absl::Status Store() {
    if (context_->IsCancelled()) return errors::Cancelled();
    if (total_ == 0 || static_cast<int64_t>(bytes_.size()) != total_) {
      return errors::UploadMismatch();
    }
    deps_.metrics.ImageReceived(total_);
    CHORD_ASSIGN_OR_RETURN(const ImageService::Kept stored,
                           deps_.images.Upload(std::move(bytes_), pin_));
    v1::Image image;
    FillImage(stored, image);
    *image_ = rpc::SerializeRaw(image);
    return absl::OkStatus();
  }

  const EndpointDeps deps_;
  CallbackServerContext* const context_;
  ByteBuffer* const image_;
  const absl::StatusOr<Client> caller_;  // or why the call is refused
  const std::string client_;
  const std::string id_ = NewRequestId();
  RequestScope scope_;
  ByteBuffer read_;
  Admission::Slot slot_;
  std::string bytes_;
  int64_t total_ = 0;
  int64_t stretch_ = 0;  // bytes of the stretch under way
  size_t next_probe_ = kFirstProbeBytes;
  bool pin_ = false;
  bool planned_ = false;
};

using ImagesBase = v1::Images::WithRawCallbackMethod_Upload<v1::Images::WithRawCallbackMethod_Touch<
    v1::Images::WithRawCallbackMethod_Delete<v1::Images::Service>>>;

class ImagesServiceImpl final : public ImagesBase {
 public:
  ImagesServiceImpl(const EndpointDeps& deps, rpc::CallRegistry& registry)
      : deps_(deps), registry_(registry) {}

  grpc::ServerReadReactor<ByteBuffer>* Upload(CallbackServerContext* context,
                                              ByteBuffer* image) override {
    return rpc::StartCall<UploadCall>(&registry_, deps_, context, image);
  }
  grpc::ServerUnaryReactor* Touch(CallbackServerContext* context, const ByteBuffer* request,
                                  ByteBuffer* image) override {
    const auto touch = [&]() -> absl::Status {
      CHORD_RETURN_IF_ERROR(IdentifyCaller(deps_, *context).status());
      CHORD_ASSIGN_OR_RETURN(const std::string id, ImageId(*request));
      CHORD_ASSIGN_OR_RETURN(const ImageService::Kept stored, deps_.images.Touch(id));
      v1::Image out;
      FillImage(stored, out);
      *image = rpc::SerializeRaw(out);
      return absl::OkStatus();
    };
    return rpc::StartCall<ImmediateCall>(nullptr, context, deps_.metrics, touch());
  }
  grpc::ServerUnaryReactor* Delete(CallbackServerContext* context, const ByteBuffer* request,
                                   ByteBuffer* response) override {
    const auto remove = [&]() -> absl::Status {
      CHORD_RETURN_IF_ERROR(IdentifyCaller(deps_, *context).status());
      CHORD_ASSIGN_OR_RETURN(const std::string id, ImageId(*request));
      CHORD_RETURN_IF_ERROR(deps_.images.Delete(id));
      *response = rpc::SerializeRaw(v1::DeleteImageResponse());
      return absl::OkStatus();
    };
    return rpc::StartCall<ImmediateCall>(nullptr, context, deps_.metrics, remove());
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

  const EndpointDeps deps_;
  rpc::CallRegistry& registry_;
};

}  // namespace

std::unique_ptr<grpc::Service> ImagesService(const EndpointDeps& deps,
                                             rpc::CallRegistry& registry) {
  return std::make_unique<ImagesServiceImpl>(deps, registry);
}

}  // namespace chord::gateway
