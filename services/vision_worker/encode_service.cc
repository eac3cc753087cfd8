#include "services/vision_worker/encode_service.h"

#include <utility>

#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/rpc/deadline.h"
#include "common/rpc/frame_codec.h"
#include "common/rpc/status_map.h"
#include "common/rpc/trace_metadata.h"
#include "services/vision_worker/embedding_push.h"
#include "services/vision_worker/prepare.h"

namespace chord::vision_worker {

namespace v1 = internal::v1;

// The gateway always sets a deadline; a caller that does not gets this one.
constexpr absl::Duration kLongestCall = absl::Minutes(10);

// header (the push opens) -> chunks -> executor: pixels and patches -> queue: tower -> push -> end.
// Ends with what comes first: the client, the deadline, a stage that fails, the push. Each stage
// keeps the call alive and checks its token.
class EncodeService::Call final
    : public rpc::ServerCall<grpc::ServerReadReactor<v1::EncodeRequest>> {
 public:
  Call(const Options& options, const Deps& deps, const grpc::CallbackServerContext& context,
       v1::EncodeResponse* response)
      : ServerCall(rpc::DeadlineOf(context), kLongestCall),
        options_(options),
        deps_(deps),
        response_(response),
        span_(rpc::BeginSpan(context)),
        report_(deps.metrics, obs::Method::kEncode, received()) {
    absl::MutexLock lock(&mu_);
    report_.log().span = span_;
  }

  void OnReadDone(bool ok) override {
    absl::Status status = !ok ? OnUploaded() : has_header_ ? OnChunk() : OnHeader();
    if (!status.ok()) return (void)End(status);
    if (ok) ReadNext();
  }

 protected:
  void Begin() override {
    if (auto status = deps_.gate->Enter(); !status.ok()) return (void)End(status);
    {
      absl::MutexLock lock(&mu_);
      entered_ = true;
    }
    core_ = deps_.loaded->get();
    if (deps_.gate->inside() > options_.max_inside) {
      return (void)End(errors::Overloaded(core_->queue->EstimateWait()));
    }
    ReadNext();
  }

  void OnEnd(const absl::Status& status) override {
    std::shared_ptr<EmbeddingPush> push;
    {
      absl::MutexLock lock(&mu_);
      released_ = true;
      push = std::move(push_);
      bytes_permit_.Release();
      patches_permit_.Release();
      if (entered_) deps_.gate->Leave();
      response_->set_queue_ms(absl::ToDoubleMilliseconds(took_.queue));
      response_->set_decode_ms(absl::ToDoubleMilliseconds(took_.pixels + took_.patches));
      response_->set_vision_ms(absl::ToDoubleMilliseconds(took_.vision));
      response_->set_push_ms(absl::ToDoubleMilliseconds(took_.push));
      Report(status);
      // Before the push is cancelled: the caller should learn the cause from this call, not from
      // the language worker's view of it.
      Finish(rpc::ToGrpc(status, report_.log().request_id));
    }
    CancelWork(status.ok() ? errors::Cancelled() : status);
    if (push != nullptr) push->Cancel();
  }

 private:
  void ReadNext() { Read(&request_, options_.stall_timeout, errors::DeadlineExceeded()); }

  absl::Status OnHeader() {
    has_header_ = true;
    if (!request_.has_header()) return errors::BodyMalformed("the header first");
    const v1::EncodeHeader& header = request_.header();
    Core& core = *core_;
    {
      absl::MutexLock lock(&mu_);
      report_.log().request_id = header.ticket().request_id().substr(0, 64);
    }
    if (!IsTicketId(header.ticket().id())) return errors::TicketUnknown();
    if (header.ticket().model_fingerprint() != core.fingerprint) return errors::ModelMismatch();
    if (header.image_bytes() <= 0) return errors::ImageEmpty();
    if (header.image_bytes() > options_.max_image_bytes) {
      return errors::ImageBytesLimit(header.image_bytes(), options_.max_image_bytes);
    }
    CHORD_ASSIGN_OR_RETURN(plan_, rpc::FromProto(header.plan()));
    CHORD_RETURN_IF_ERROR(image::VerifyFrame(plan_, core.config.geometry));
    target_ = core.language_workers->Find(header.target());
    if (target_ == nullptr) return errors::PeerUnknown();

    // Before the first byte of the image, so that a client that cannot be served learns it early.
    CHORD_ASSIGN_OR_RETURN(auto patches_permit,
                           core.queue->Admit(plan_.grid.patches(), deadline()));
    image_bytes_ = header.image_bytes();
    auto bytes_permit = deps_.bytes->TryAcquire(image_bytes_);
    if (!bytes_permit) return errors::Overloaded(core.queue->EstimateWait());
    image_.reserve(image_bytes_);

    absl::MutexLock lock(&mu_);
    if (released_) return errors::Cancelled();
    bytes_permit_ = std::move(bytes_permit);
    patches_permit_ = std::move(patches_permit);
    report_.log().image_tokens = plan_.tokens;
    // Opened now, so that the ticket is found and accepted while the image is uploaded.
    push_ = EmbeddingPush::Open(target_.get(), PushHeader(header.ticket()), deadline(), span_.own,
                                [self = Shared(this)](absl::Status status, absl::Duration took) {
                                  self->OnPushed(std::move(status), took);
                                });
    return absl::OkStatus();
  }

  v1::EmbeddingHeader PushHeader(const v1::Ticket& ticket) const {
    v1::EmbeddingHeader out;
    *out.mutable_ticket() = ticket;
    out.set_grid_h(plan_.grid.h);
    out.set_grid_w(plan_.grid.w);
    out.set_rows(plan_.tokens);
    out.set_width(core_->config.text.hidden_size);
    out.set_dtype(rpc::ToProto(core_->row_dtype));
    out.set_total_bytes(EmbeddingBytes());
    return out;
  }
  int64_t EmbeddingBytes() const {
    return plan_.tokens * core_->config.text.hidden_size * model::SizeOf(core_->row_dtype);
  }

  absl::Status OnChunk() {
    const std::string& chunk = request_.image_chunk();
    if (!request_.has_image_chunk() || chunk.empty() ||
        static_cast<int64_t>(chunk.size()) > limits::kMaxChunkBytes ||
        static_cast<int64_t>(chunk.size()) > image_bytes_ - static_cast<int64_t>(image_.size())) {
      return errors::BodyMalformed("the image in chunks of 1 byte to 1 MiB, as many as announced");
    }
    image_ += chunk;
    return absl::OkStatus();
  }

  absl::Status OnUploaded() {
    const bool complete = has_header_ && static_cast<int64_t>(image_.size()) == image_bytes_;
    if (!complete) {
      // Half-closed too early, or cancelled: then OnCancel follows within the grace.
      SetStall(absl::Now() + options_.broken_grace,
               errors::BodyMalformed("all bytes of the image"));
      return absl::OkStatus();
    }
    SetStall(absl::InfiniteFuture());
    auto prepare = [self = Shared(this)] {
      if (auto status = self->Prepare(); !status.ok()) self->End(status);
    };
    if (deps_.executor->TryRun(std::move(prepare))) return absl::OkStatus();
    return errors::Overloaded(core_->queue->EstimateWait());
  }

  absl::Status Prepare() {
    CHORD_RETURN_IF_ERROR(token().Check());
    Enter(obs::Point::kDecodePixels);
    CHORD_ASSIGN_OR_RETURN(auto prepared,
                           PreparePatches(image_, plan_, core_->rules, *deps_.pixels, token()));
    image_ = {};
    EncodeJob job;
    {
      absl::MutexLock lock(&mu_);
      if (released_) return errors::Cancelled();
      bytes_permit_.Release();
      job.permit = std::move(patches_permit_);
      took_.pixels = prepared.decode;
      took_.patches = prepared.preprocess;
    }
    Enter(obs::Point::kVision);
    job.patches = std::move(prepared.patches);
    job.pixels = std::move(prepared.pixels);
    job.grid = plan_.grid;
    job.cancel = token();
    job.done = [self = Shared(this)](absl::StatusOr<EncodeJob::Result> result) {
      self->OnEncoded(std::move(result));
    };
    return core_->queue->Submit(std::move(job));
  }

  void OnEncoded(absl::StatusOr<EncodeJob::Result> result) {
    if (!result.ok()) return (void)End(result.status());
    std::shared_ptr<EmbeddingPush> push;
    {
      absl::MutexLock lock(&mu_);
      if (released_) return;
      took_.queue = result->queue;
      took_.vision = result->compute;
      push = push_;
    }
    Enter(obs::Point::kPush);
    push->Send(std::move(result->embeddings.bytes));
  }

  void OnPushed(absl::Status status, absl::Duration took) {
    {
      absl::MutexLock lock(&mu_);
      took_.push = took;
    }
    End(status);
  }

  void Report(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (status.ok()) {
      report_.log().stages = {{obs::Stage::kDecodePixels, took_.pixels},
                              {obs::Stage::kPreprocess, took_.patches},
                              {obs::Stage::kQueue, took_.queue},
                              {obs::Stage::kVision, took_.vision},
                              {obs::Stage::kPush, took_.push}};
      deps_.metrics->ImageEncoded(plan_.grid.patches());
      deps_.metrics->EmbeddingBytes(obs::Direction::kSent, EmbeddingBytes());
    }
    report_.End(status, point_);
  }

  void Enter(obs::Point point) {
    absl::MutexLock lock(&mu_);
    point_ = point;
  }

  const Options& options_;
  const Deps& deps_;
  v1::EncodeResponse* const response_;
  Core* core_ = nullptr;

  // Of the reader, then of the stage.
  v1::EncodeRequest request_;
  bool has_header_ = false;
  image::FramePlan plan_;
  std::shared_ptr<LanguagePeers::Stub> target_;  // used by the push as long as the call lives
  int64_t image_bytes_ = 0;
  std::string image_;

  absl::Mutex mu_;
  bool entered_ ABSL_GUARDED_BY(mu_) = false;
  bool released_ ABSL_GUARDED_BY(mu_) = false;  // nothing may be taken for the call any more
  const obs::SpanIds span_;
  ResourceBudget::Permit bytes_permit_ ABSL_GUARDED_BY(mu_);  // of encoded bytes
  ResourceBudget::Permit patches_permit_
      ABSL_GUARDED_BY(mu_);  // in the queue, until the job has it
  rpc::CallReport report_ ABSL_GUARDED_BY(mu_);
  obs::Point point_ ABSL_GUARDED_BY(mu_) = obs::Point::kQueue;
  struct {
    absl::Duration pixels, patches, queue, vision, push;
  } took_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<EmbeddingPush> push_ ABSL_GUARDED_BY(mu_);
};

grpc::ServerReadReactor<v1::EncodeRequest>* EncodeService::Encode(
    grpc::CallbackServerContext* context, v1::EncodeResponse* response) {
  return rpc::StartCall<Call>(&calls_, options_, deps_, *context, response);
}

}  // namespace chord::vision_worker
