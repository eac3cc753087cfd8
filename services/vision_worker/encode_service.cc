#include "services/vision_worker/encode_service.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/obs/log.h"
#include "common/rpc/deadline.h"
#include "common/rpc/frame_codec.h"
#include "common/rpc/status_map.h"
#include "services/vision_worker/embedding_push.h"
#include "services/vision_worker/prepare.h"

namespace chord::vision_worker {

namespace v1 = internal::v1;

// The gateway always sets a deadline; a caller that does not gets this one.
constexpr absl::Duration kLongestCall = absl::Minutes(10);

// header (the push opens) -> chunks -> executor: pixels and patches -> queue: tower -> push -> end.
// One end, whoever brings it first: the client, the deadline, a stage, the push. Stages hold a
// share of the call and look at its token.
class EncodeService::Call : public grpc::ServerReadReactor<v1::EncodeRequest>,
                            public std::enable_shared_from_this<Call> {
 public:
  Call(EncodeService* service, absl::Time deadline, v1::EncodeResponse* response)
      : service_(*service),
        deps_(service->deps_),
        response_(response),
        began_(absl::Now()),
        source_(std::min(deadline, began_ + kLongestCall)) {}

  void Begin() {
    self_ = shared_from_this();
    deps_.metrics->RequestBegan(obs::Method::kEncode);
    if (auto status = deps_.gate->Enter(); !status.ok()) return End(status);
    {
      absl::MutexLock lock(&mu_);
      entered_ = true;
    }
    if (deps_.gate->inside() > service_.options_.max_inside) {
      return End(errors::Overloaded(deps_.core()->queue->EstimateWait()));
    }
    ReadNext();
  }

  void OnReadDone(bool ok) override {
    absl::Status status = !ok ? OnUploaded() : has_header_ ? OnChunk() : OnHeader();
    if (!status.ok()) return End(status);
    if (ok) ReadNext();
  }
  void OnCancel() override {
    const bool late = absl::Now() >= source_.token().deadline();
    End(late ? errors::DeadlineExceeded() : errors::Cancelled());
  }
  void OnDone() override { auto self = std::move(self_); }

  void CheckStall(absl::Time now) {
    absl::Status reason;
    {
      absl::MutexLock lock(&mu_);
      if (finished_ || now < stalls_at_) return;
      reason = stall_reason_;
    }
    End(reason);
  }

 private:
  void ReadNext() {
    absl::MutexLock lock(&mu_);
    if (finished_) return;
    stalls_at_ = absl::Now() + service_.options_.stall_timeout;
    StartRead(&request_);
  }

  // --- reading: one message at a time
  // ---------------------------------------------------------------
  absl::Status OnHeader() {
    has_header_ = true;
    if (!request_.has_header()) return errors::BodyMalformed("the header first");
    const v1::EncodeHeader& header = request_.header();
    Core& core = *deps_.core();
    {
      absl::MutexLock lock(&mu_);
      log_.request_id = header.ticket().request_id().substr(0, 64);
    }
    if (!IsTicketId(header.ticket().id())) return errors::TicketUnknown();
    if (header.ticket().model_fingerprint() != core.fingerprint) return errors::ModelMismatch();
    if (header.image_bytes() <= 0) return errors::ImageEmpty();
    if (header.image_bytes() > service_.options_.max_image_bytes) {
      return errors::ImageBytesLimit(header.image_bytes(), service_.options_.max_image_bytes);
    }
    CHORD_ASSIGN_OR_RETURN(plan_, rpc::FromProto(header.plan()));
    CHORD_RETURN_IF_ERROR(image::VerifyFrame(plan_, core.config.geometry));
    target_ = core.language_workers->Find(header.target());
    if (target_ == nullptr) return errors::PeerUnknown();

    // Before the first byte of the image: a client that cannot be served hears it at once.
    CHORD_ASSIGN_OR_RETURN(auto place,
                           core.queue->Admit(plan_.grid.patches(), source_.token().deadline()));
    image_bytes_ = header.image_bytes();
    auto share = deps_.bytes->TryTake(image_bytes_);
    if (!share) return errors::Overloaded(core.queue->EstimateWait());
    image_.reserve(image_bytes_);

    v1::EmbeddingHeader push;
    *push.mutable_ticket() = header.ticket();
    push.set_grid_h(plan_.grid.h);
    push.set_grid_w(plan_.grid.w);
    push.set_rows(plan_.tokens);
    push.set_width(core.config.text.hidden_size);
    push.set_dtype(rpc::ToProto(core.row_dtype));
    push.set_total_bytes(plan_.tokens * core.config.text.hidden_size *
                         model::SizeOf(core.row_dtype));
    absl::MutexLock lock(&mu_);
    if (finished_) return errors::Cancelled();  // goes nowhere: the call has its end
    share_ = std::move(share);
    place_ = std::move(place);
    log_.image_tokens = plan_.tokens;
    // Opened now, so that the ticket is found and accepted while the image still travels.
    push_ =
        EmbeddingPush::Open(target_.get(), push, source_.token().deadline(),
                            [self = shared_from_this()](absl::Status status, absl::Duration took) {
                              self->OnPushed(std::move(status), took);
                            });
    return absl::OkStatus();
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
    {
      absl::MutexLock lock(&mu_);
      stalls_at_ = absl::InfiniteFuture();
      if (!complete) {
        // Half-closed too early, or cancelled: then OnCancel follows and says so.
        stalls_at_ = absl::Now() + service_.options_.broken_grace;
        stall_reason_ = errors::BodyMalformed("all bytes of the image");
        return absl::OkStatus();
      }
    }
    auto prepare = [self = shared_from_this()] {
      if (auto status = self->Prepare(); !status.ok()) self->End(status);
    };
    if (deps_.executor->TryRun(std::move(prepare))) return absl::OkStatus();
    return errors::Overloaded(deps_.core()->queue->EstimateWait());
  }

  // --- the stages
  // -----------------------------------------------------------------------------------
  absl::Status Prepare() {
    CHORD_RETURN_IF_ERROR(source_.token().Check());
    Enter(obs::Point::kDecodePixels);
    CHORD_ASSIGN_OR_RETURN(auto prepared, PreparePatches(image_, plan_, deps_.core()->rules,
                                                         *deps_.pixels, source_.token()));
    image_ = {};
    EncodeJob job;
    {
      absl::MutexLock lock(&mu_);
      if (finished_) return errors::Cancelled();  // goes nowhere
      share_.Return();
      job.place = std::move(place_);
      took_.pixels = prepared.decode;
      took_.patches = prepared.preprocess;
    }
    Enter(obs::Point::kVision);
    job.patches = std::move(prepared.patches);
    job.pixels = std::move(prepared.pixels);
    job.grid = plan_.grid;
    job.cancel = source_.token();
    job.done = [self = shared_from_this()](absl::StatusOr<EncodeJob::Result> result) {
      self->OnEncoded(std::move(result));
    };
    return deps_.core()->queue->Submit(std::move(job));
  }

  void OnEncoded(absl::StatusOr<EncodeJob::Result> result) {
    if (!result.ok()) return End(result.status());
    std::shared_ptr<EmbeddingPush> push;
    {
      absl::MutexLock lock(&mu_);
      if (finished_) return;
      took_.queue = result->queue;
      took_.vision = result->compute;
      push = push_;
    }
    Enter(obs::Point::kPush);
    push->Send(std::move(result->rows.bytes));
  }

  void OnPushed(absl::Status status, absl::Duration took) {
    {
      absl::MutexLock lock(&mu_);
      took_.push = took;
    }
    End(status);
  }

  // --- the end
  // --------------------------------------------------------------------------------------
  void End(const absl::Status& status) {
    std::shared_ptr<EmbeddingPush> push;
    {
      absl::MutexLock lock(&mu_);
      if (finished_) return;
      finished_ = true;
      push = std::move(push_);
      share_.Return();
      place_.Return();
      if (entered_) deps_.gate->Leave();
      response_->set_queue_ms(absl::ToDoubleMilliseconds(took_.queue));
      response_->set_decode_ms(absl::ToDoubleMilliseconds(took_.pixels + took_.patches));
      response_->set_vision_ms(absl::ToDoubleMilliseconds(took_.vision));
      response_->set_push_ms(absl::ToDoubleMilliseconds(took_.push));
      Report(status);
      // Before the push is dropped: the caller should hear the cause from us, not the language
      // worker's view of it.
      Finish(rpc::ToGrpc(status, log_.request_id));
    }
    source_.Cancel(status.ok() ? errors::Cancelled() : status);
    if (push != nullptr) push->Cancel();
  }

  void Report(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    obs::Metrics& metrics = *deps_.metrics;
    log_.method = obs::Method::kEncode;
    log_.status = status;
    log_.took = absl::Now() - began_;
    if (status.ok()) {
      log_.stages = {{obs::Stage::kDecodePixels, took_.pixels},
                     {obs::Stage::kPreprocess, took_.patches},
                     {obs::Stage::kQueue, took_.queue},
                     {obs::Stage::kVision, took_.vision},
                     {obs::Stage::kPush, took_.push}};
      for (const auto& [stage, took] : log_.stages) metrics.StageTook(stage, took);
      const Core& core = *deps_.core();
      metrics.ImageEncoded(plan_.grid.patches());
      metrics.EmbeddingBytes(obs::Direction::kSent, plan_.tokens * core.config.text.hidden_size *
                                                        model::SizeOf(core.row_dtype));
    } else if (absl::IsCancelled(status)) {
      metrics.Cancelled(point_);
    } else if (absl::IsDeadlineExceeded(status)) {
      metrics.DeadlineExceeded(point_);
    } else {
      metrics.Rejected(ErrorReason(status));
    }
    metrics.RequestEnded(obs::Method::kEncode, ForClient(status).code(), log_.took);
    obs::LogRequest(log_);
  }

  void Enter(obs::Point point) {
    absl::MutexLock lock(&mu_);
    point_ = point;
  }

  EncodeService& service_;
  const Deps& deps_;
  v1::EncodeResponse* const response_;
  const absl::Time began_;
  CancelSource source_;
  std::shared_ptr<Call> self_;  // until OnDone

  // The reader's own, then the stage's.
  v1::EncodeRequest request_;
  bool has_header_ = false;
  image::FramePlan plan_;
  std::shared_ptr<LanguagePeers::Stub> target_;  // used by the push as long as the call lives
  int64_t image_bytes_ = 0;
  std::string image_;

  absl::Mutex mu_;
  bool entered_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  absl::Time stalls_at_ ABSL_GUARDED_BY(mu_) = absl::InfiniteFuture();
  absl::Status stall_reason_ ABSL_GUARDED_BY(mu_) = errors::DeadlineExceeded();
  Budget::Share share_ ABSL_GUARDED_BY(mu_);  // of encoded bytes
  Budget::Share place_ ABSL_GUARDED_BY(mu_);  // in the queue, until the job has it
  obs::RequestLog log_ ABSL_GUARDED_BY(mu_);
  obs::Point point_ ABSL_GUARDED_BY(mu_) = obs::Point::kQueue;
  struct {
    absl::Duration pixels, patches, queue, vision, push;
  } took_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<EmbeddingPush> push_ ABSL_GUARDED_BY(mu_);
};

EncodeService::~EncodeService() = default;

grpc::ServerReadReactor<v1::EncodeRequest>* EncodeService::Encode(
    grpc::CallbackServerContext* context, v1::EncodeResponse* response) {
  auto call = std::make_shared<Call>(this, rpc::DeadlineOf(*context), response);
  {
    absl::MutexLock lock(&mu_);
    auto gone = std::remove_if(calls_.begin(), calls_.end(),
                               [](const auto& weak) { return weak.expired(); });
    calls_.erase(gone, calls_.end());
    calls_.push_back(call);
  }
  call->Begin();
  return call.get();
}

void EncodeService::Sweep(absl::Time now) {
  std::vector<std::shared_ptr<Call>> calls;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& weak : calls_) {
      if (auto call = weak.lock()) calls.push_back(std::move(call));
    }
  }
  for (const auto& call : calls) call->CheckStall(now);
}

}  // namespace chord::vision_worker
