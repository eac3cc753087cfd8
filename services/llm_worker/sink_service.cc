#include "services/llm_worker/sink_service.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/limits.h"
#include "common/rpc/deadline.h"
#include "common/rpc/frame_codec.h"
#include "common/rpc/status_map.h"
#include "common/rpc/trace_metadata.h"
#include "services/llm_worker/embedding_receiver.h"

namespace chord::llm_worker {

namespace v1 = internal::v1;

// header -> (reservation) -> accept -> chunks -> half-close -> received.
//
// One driver at a time moves the call forward: the read that has completed, or the ticket table's
// answer. The driver holds no lock, because the receiver may end the whole request, and that comes
// back through the ticket's token. When the call ends while it is driven, the driver aborts the
// receiver; otherwise OnEnd does.
class SinkService::Call final
    : public rpc::ServerCall<grpc::ServerBidiReactor<v1::PushRequest, v1::PushResponse>> {
 public:
  Call(const Options& options, const Deps& deps, const grpc::CallbackServerContext& context)
      : ServerCall(rpc::DeadlineOf(context), absl::InfiniteDuration()),
        options_(options),
        deps_(deps),
        report_(deps.metrics, obs::Method::kPushEmbeddings, received()) {
    absl::MutexLock lock(&mu_);
    report_.log().span = rpc::BeginSpan(context);
  }

  void OnReadDone(bool ok) override {
    if (!BeginDriving()) return;
    if (!ok) return FinishDriving(OnLast());
    if (receiver_ != nullptr) return FinishDriving(OnChunk());
    const auto id = OnHeader();
    FinishDriving(id.ok() ? absl::StatusOr<Next>(Next::kNothing) : id.status());
    if (id.ok()) AwaitTicket(*id);  // drives on from there, here or on another thread
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return (void)End(errors::WorkerLost("vision"));
    {
      absl::MutexLock lock(&mu_);
      writing_ = false;
      if (!confirm_pending_) return;
    }
    End(absl::OkStatus());
  }

 protected:
  void Begin() override { Read(&request_, options_.header_timeout, errors::WorkerLost("vision")); }

  absl::Status CancelReason() const override { return errors::WorkerLost("vision"); }

  // Aborting the receiver ends the request with the same status. That fires the ticket's token,
  // whose callback calls End again, which does nothing.
  void OnEnd(const absl::Status& status) override {
    bool abort;
    {
      absl::MutexLock lock(&mu_);
      end_ = status;
      abort = !status.ok() && !driving_ && receiver_ != nullptr;
      deps_.metrics->EmbeddingBytes(obs::Direction::kReceived, bytes_);
      report_.End(status, obs::Point::kPush);
      if (status.ok()) {
        response_.mutable_received()->set_bytes(bytes_);
        StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
      } else {
        Finish(rpc::ToGrpc(status, report_.log().request_id));
      }
    }
    if (abort) receiver_->Abort(status);
  }

 private:
  enum class Next { kNothing, kRead, kAcceptAndRead, kConfirm };

  bool BeginDriving() {
    SetStall(absl::InfiniteFuture());
    absl::MutexLock lock(&mu_);
    if (end_) return false;
    driving_ = true;
    return true;
  }
  void FinishDriving(absl::StatusOr<Next> next) {
    absl::Status ended;
    {
      absl::MutexLock lock(&mu_);
      if (receiver_ != nullptr) bytes_ = receiver_->received();
      driving_ = false;
      if (end_) ended = *end_;
    }
    if (!ended.ok() && receiver_ != nullptr) return receiver_->Abort(ended);
    if (!next.ok()) return (void)End(next.status());
    Do(*next);
  }
  void Do(Next next) {
    switch (next) {
      case Next::kNothing:
        return;
      case Next::kAcceptAndRead:
        return AcceptAndRead();
      case Next::kRead:
        Read(&request_, options_.stall_timeout, errors::WorkerLost("vision"));
        return;
      case Next::kConfirm:
        SetStall(absl::Now() + options_.stall_timeout, errors::WorkerLost("vision"));
        return Confirm();
    }
  }
  void AcceptAndRead() {
    {
      absl::MutexLock lock(&mu_);
      if (end_) return;
      response_.mutable_accept()->set_transport(v1::Accept::TRANSPORT_GRPC);
      response_.mutable_accept()->set_max_chunk_bytes(limits::kMaxChunkBytes);
      writing_ = true;
      if (!Write(&response_)) return;
    }
    // The vision worker computes now. The request's own deadline bounds it.
    Read(&request_, absl::InfiniteDuration(), errors::WorkerLost("vision"));
  }
  // The last write, or OnWriteDone makes it when `accept` is still on its way.
  void Confirm() {
    {
      absl::MutexLock lock(&mu_);
      confirm_pending_ = true;
      if (writing_) return;
    }
    End(absl::OkStatus());
  }

  absl::StatusOr<std::string> OnHeader() {
    if (!request_.has_header()) return errors::EmbeddingMismatch("header");
    const v1::Ticket& ticket = request_.header().ticket();
    core_ = deps_.loaded->get();
    if (core_ == nullptr) return errors::WorkerUnavailable("language");
    {
      absl::MutexLock lock(&mu_);
      report_.log().request_id = ticket.request_id().substr(0, 64);
      report_.log().image_tokens = request_.header().rows();
    }
    if (!IsTicketId(ticket.id())) return errors::TicketUnknown();
    return ticket.id();
  }

  void AwaitTicket(const std::string& id) {
    const absl::Time until = std::min(deadline(), absl::Now() + options_.wait_for_ticket);
    deps_.tickets->Await(id, until, [weak = Weak(this)](auto reservation) {
      if (auto self = weak.lock()) self->OnReservation(std::move(reservation));
    });
  }

  // No read is under way until this starts one.
  void OnReservation(absl::StatusOr<std::shared_ptr<Reservation>> reservation) {
    if (!reservation.ok()) return (void)End(reservation.status());
    EndWith((*reservation)->token());
    if (!BeginDriving()) return;
    const v1::EmbeddingHeader& header = request_.header();
    PushHeader fields;
    fields.model_fingerprint = header.ticket().model_fingerprint();
    fields.grid = {header.grid_h(), header.grid_w()};
    fields.rows = header.rows();
    fields.width = header.width();
    fields.dtype = rpc::FromProto(header.dtype());
    fields.total_bytes = header.total_bytes();
    auto receiver =
        EmbeddingReceiver::Begin(*std::move(reservation), fields,
                                 [model = core_->model.get()](int64_t rows, model::DType dtype) {
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
  // OnCancel follows within the grace and tells the cause.
  absl::StatusOr<Next> OnLast() {
    if (receiver_ != nullptr && receiver_->has_all()) {
      auto status = receiver_->Finish();
      if (!status.ok()) return status;
      core_->loop->Wake();
      return Next::kConfirm;
    }
    SetStall(absl::Now() + options_.broken_grace,
             receiver_ == nullptr ? errors::TicketUnknown() : errors::EmbeddingMismatch("bytes"));
    return Next::kNothing;
  }

  const Options& options_;
  const Deps& deps_;

  // Of the driver; after the end, of what aborts the receiver.
  Core* core_ = nullptr;
  v1::PushRequest request_;
  std::unique_ptr<EmbeddingReceiver> receiver_;

  absl::Mutex mu_;
  v1::PushResponse response_ ABSL_GUARDED_BY(mu_);  // being written
  rpc::CallReport report_ ABSL_GUARDED_BY(mu_);
  int64_t bytes_ ABSL_GUARDED_BY(mu_) = 0;
  bool driving_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool confirm_pending_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);
};

grpc::ServerBidiReactor<v1::PushRequest, v1::PushResponse>* SinkService::Push(
    grpc::CallbackServerContext* context) {
  return rpc::StartCall<Call>(&calls_, options_, deps_, *context);
}

}  // namespace chord::llm_worker
