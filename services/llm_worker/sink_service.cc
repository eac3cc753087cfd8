#include "services/llm_worker/sink_service.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/limits.h"
#include "common/obs/log.h"
#include "common/rpc/deadline.h"
#include "common/rpc/frame_codec.h"
#include "common/rpc/status_map.h"
#include "services/llm_worker/embedding_receiver.h"

namespace chord::llm_worker {

namespace v1 = internal::v1;

// header -> (reservation) -> accept -> chunks -> half-close -> received. One driver at a time (the
// read that came in, or the table's answer) moves it forward without the lock, because the receiver
// may end the whole request, which comes back to us through the ticket's cancellation. Anybody may
// end the call meanwhile; then the driver is the one who leaves the ticket.
class SinkService::Call : public grpc::ServerBidiReactor<v1::PushRequest, v1::PushResponse>,
                          public std::enable_shared_from_this<Call> {
 public:
  Call(const Options& options, const Deps& deps, absl::Time deadline)
      : options_(options), deps_(deps), deadline_(deadline), began_(absl::Now()) {}

  void Begin() {
    self_ = shared_from_this();
    deps_.metrics->RequestBegan(obs::Method::kPushEmbeddings);
    absl::MutexLock lock(&mu_);
    stalls_at_ = began_ + options_.header_timeout;
    StartRead(&request_);
  }
  void Refuse(const absl::Status& status) {
    self_ = shared_from_this();
    deps_.metrics->RequestBegan(obs::Method::kPushEmbeddings);
    End(status);
  }

  void OnReadDone(bool ok) override {
    if (!BeginDriving()) return;
    if (!ok) return FinishDriving(OnLast());
    if (receiver_ != nullptr) return FinishDriving(OnChunk());
    const auto id = OnHeader();
    FinishDriving(id.ok() ? absl::StatusOr<Next>(Next::kNothing) : id.status());
    if (id.ok()) AwaitTicket(*id);  // drives on by itself, here or on another thread
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return End(errors::WorkerLost("vision"));
    absl::MutexLock lock(&mu_);
    writing_ = false;
    if (confirm_pending_) Confirm();
  }
  void OnCancel() override {
    End(absl::Now() >= deadline_ ? errors::DeadlineExceeded() : errors::WorkerLost("vision"));
  }
  void OnDone() override {
    CancelToken::Registration last;
    {
      absl::MutexLock lock(&mu_);
      std::swap(last, on_cancel_);
    }
    auto self = std::move(self_);
  }

  void CheckStall(absl::Time now) {
    absl::Status reason;
    {
      absl::MutexLock lock(&mu_);
      if (finished_ || driving_ || now < stalls_at_) return;
      reason = stall_reason_;
    }
    End(reason);
  }

 private:
  enum class Next { kNothing, kRead, kAcceptAndRead, kConfirm };

  bool BeginDriving() {
    absl::MutexLock lock(&mu_);
    if (finished_) return false;
    driving_ = true;
    return true;
  }
  void FinishDriving(absl::StatusOr<Next> next) {
    absl::Status ended;
    {
      absl::MutexLock lock(&mu_);
      driving_ = false;
      if (receiver_ != nullptr) bytes_ = receiver_->received();
      if (finished_) {
        ended = end_;
      } else if (next.ok()) {
        Do(*next);
      }
    }
    if (!next.ok()) return End(next.status());
    if (!ended.ok() && receiver_ != nullptr) receiver_->Abort(ended);
  }
  void Do(Next next) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    switch (next) {
      case Next::kNothing:
        return;
      case Next::kAcceptAndRead:
        response_.mutable_accept()->set_transport(v1::Accept::TRANSPORT_GRPC);
        response_.mutable_accept()->set_max_chunk_bytes(limits::kMaxChunkBytes);
        writing_ = true;
        StartWrite(&response_);
        // The vision worker computes now; the request's own deadline bounds it.
        stalls_at_ = absl::InfiniteFuture();
        return StartRead(&request_);
      case Next::kRead:
        stalls_at_ = absl::Now() + options_.stall_timeout;
        return StartRead(&request_);
      case Next::kConfirm:
        stalls_at_ = absl::Now() + options_.stall_timeout;
        confirm_pending_ = true;
        if (!writing_) Confirm();
        return;
    }
  }
  void Confirm() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (std::exchange(finished_, true)) return;
    response_.mutable_received()->set_bytes(bytes_);
    StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
    Report(absl::OkStatus());
  }

  // --- driving
  // ------------------------------------------------------------------------------------
  absl::StatusOr<std::string> OnHeader() {
    if (!request_.has_header()) return errors::EmbeddingMismatch("header");
    const v1::Ticket& ticket = request_.header().ticket();
    if (deps_.core() == nullptr) return errors::WorkerUnavailable("language");
    absl::MutexLock lock(&mu_);
    log_.request_id = ticket.request_id().substr(0, 64);
    log_.image_tokens = request_.header().rows();
    if (!IsTicketId(ticket.id())) return errors::TicketUnknown();
    stalls_at_ = absl::InfiniteFuture();
    return ticket.id();
  }

  void AwaitTicket(const std::string& id) {
    const absl::Time until = std::min(deadline_, absl::Now() + options_.wait_for_ticket);
    deps_.tickets->Await(id, until, [weak = weak_from_this()](auto reservation) {
      if (auto self = weak.lock()) self->OnReservation(std::move(reservation));
    });
  }

  // No read is under way until this starts one.
  void OnReservation(absl::StatusOr<std::shared_ptr<Reservation>> reservation) {
    if (!reservation.ok()) return End(reservation.status());
    const CancelToken token = (*reservation)->token();
    auto registration = token.OnCancel([weak = weak_from_this(), token] {
      if (auto self = weak.lock()) self->End(token.Check());
    });
    {
      absl::MutexLock lock(&mu_);
      if (finished_) return;
      driving_ = true;
      std::swap(on_cancel_, registration);
    }
    const v1::EmbeddingHeader& header = request_.header();
    PushHeader fields;
    fields.model_fingerprint = header.ticket().model_fingerprint();
    fields.grid = {header.grid_h(), header.grid_w()};
    fields.rows = header.rows();
    fields.width = header.width();
    fields.dtype = rpc::FromProto(header.dtype());
    fields.total_bytes = header.total_bytes();
    auto receiver = EmbeddingReceiver::Begin(
        *std::move(reservation), fields,
        [model = deps_.core()->model.get()](int64_t rows, model::DType dtype) {
          return model->CreateEmbeddings(rows, dtype);
        });
    if (!receiver.ok()) return FinishDriving(receiver.status());
    receiver_ = *std::move(receiver);
    FinishDriving(Next::kAcceptAndRead);
  }

  absl::StatusOr<Next> OnChunk() {
    if (!request_.has_chunk()) return errors::EmbeddingMismatch("header");
    const v1::EmbeddingChunk& chunk = request_.chunk();
    auto status = receiver_->Chunk(chunk.offset(), chunk.data(), chunk.crc32c());
    if (!status.ok()) return status;
    return Next::kRead;
  }

  // No more messages: the writer is done, has half-closed too early, or is broken. In the last case
  // OnCancel follows and says so; a little patience tells the two apart.
  absl::StatusOr<Next> OnLast() {
    if (receiver_ != nullptr && receiver_->has_all()) {
      auto status = receiver_->Finish();
      if (!status.ok()) return status;
      deps_.core()->loop->Wake();
      return Next::kConfirm;
    }
    absl::MutexLock lock(&mu_);
    stalls_at_ = absl::Now() + options_.broken_grace;
    stall_reason_ =
        receiver_ == nullptr ? errors::TicketUnknown() : errors::EmbeddingMismatch("bytes");
    return Next::kNothing;
  }

  // --- the end
  // ------------------------------------------------------------------------------------ Leaves the
  // ticket, so that its request ends with the same status. That fires the ticket's source, whose
  // callback enters here again and returns at once.
  void End(const absl::Status& status) {
    bool leave;
    {
      absl::MutexLock lock(&mu_);
      if (finished_) return;
      finished_ = true;
      end_ = status;
      leave = !driving_ && receiver_ != nullptr;
      Finish(rpc::ToGrpc(status, log_.request_id));
      Report(status);
    }
    if (leave) receiver_->Abort(status);
  }

  void Report(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    obs::Metrics& metrics = *deps_.metrics;
    log_.method = obs::Method::kPushEmbeddings;
    log_.status = status;
    log_.took = absl::Now() - began_;
    metrics.EmbeddingBytes(obs::Direction::kReceived, bytes_);
    if (absl::IsCancelled(status)) {
      metrics.Cancelled(obs::Point::kPush);
    } else if (absl::IsDeadlineExceeded(status)) {
      metrics.DeadlineExceeded(obs::Point::kPush);
    } else if (!status.ok()) {
      metrics.Rejected(status);
    }
    metrics.RequestEnded(obs::Method::kPushEmbeddings, ForClient(status).code(), log_.took);
    obs::LogRequest(log_);
  }

  const Options& options_;
  const Deps& deps_;
  const absl::Time deadline_, began_;
  std::shared_ptr<Call> self_;  // until OnDone

  // The driver's own; after the end, of whoever leaves the ticket.
  v1::PushRequest request_;
  std::unique_ptr<EmbeddingReceiver> receiver_;

  absl::Mutex mu_;
  v1::PushResponse response_ ABSL_GUARDED_BY(mu_);  // being written
  obs::RequestLog log_ ABSL_GUARDED_BY(mu_);
  int64_t bytes_ ABSL_GUARDED_BY(mu_) = 0;
  bool driving_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool confirm_pending_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status end_ ABSL_GUARDED_BY(mu_);
  absl::Time stalls_at_ ABSL_GUARDED_BY(mu_) = absl::InfiniteFuture();
  absl::Status stall_reason_ ABSL_GUARDED_BY(mu_) = errors::WorkerLost("vision");
  CancelToken::Registration on_cancel_ ABSL_GUARDED_BY(mu_);
};

SinkService::~SinkService() = default;

grpc::ServerBidiReactor<v1::PushRequest, v1::PushResponse>* SinkService::Push(
    grpc::CallbackServerContext* context) {
  auto call = std::make_shared<Call>(options_, deps_, rpc::DeadlineOf(*context));
  bool full = false;
  {
    absl::MutexLock lock(&mu_);
    auto gone = std::remove_if(calls_.begin(), calls_.end(),
                               [](const auto& weak) { return weak.expired(); });
    calls_.erase(gone, calls_.end());
    full = calls_.size() >= options_.max_pushes;
    if (!full) calls_.push_back(call);
  }
  if (full) {
    call->Refuse(errors::Overloaded(absl::Seconds(1)));
  } else {
    call->Begin();
  }
  return call.get();
}

void SinkService::Sweep(absl::Time now) {
  std::vector<std::shared_ptr<Call>> calls;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& weak : calls_) {
      if (auto call = weak.lock()) calls.push_back(std::move(call));
    }
  }
  for (const auto& call : calls) call->CheckStall(now);
}

size_t SinkService::active() const {
  absl::MutexLock lock(&mu_);
  return std::count_if(calls_.begin(), calls_.end(),
                       [](const auto& weak) { return !weak.expired(); });
}

}  // namespace chord::llm_worker
