#include "services/llm_worker/decode_service.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/status_macros.h"
#include "common/rpc/cache_tier.h"
#include "common/rpc/call.h"
#include "common/rpc/deadline.h"
#include "common/rpc/status_map.h"
#include "common/rpc/trace_metadata.h"
#include "services/llm_worker/decode_codec.h"

namespace chord::llm_worker {

namespace v1 = internal::v1;

// The gateway always sets a deadline; a caller that does not gets this one.
constexpr absl::Duration kLongestCall = absl::Minutes(10);

// Ends with what comes first: the loop's result, the client, the deadline, the ticket (which the
// writer of the embeddings and the table's timer can cancel).
class DecodeService::Call final
    : public rpc::ServerCall<grpc::ServerWriteReactor<v1::DecodeEvent>> {
 public:
  // `request` stays valid until Begin returns.
  Call(const Deps& deps, grpc::CallbackServerContext* context, const v1::DecodeRequest* request)
      : ServerCall(rpc::DeadlineOf(*context), kLongestCall),
        deps_(deps),
        request_(request),
        request_id_(request->ticket().request_id().substr(0, 64)),
        ticket_id_(request->ticket().id().substr(0, 32)),
        report_(deps.metrics, obs::Method::kDecode, received()) {
    absl::MutexLock lock(&mu_);
    report_.log().request_id = request_id_;
    report_.log().span = rpc::BeginSpan(*context);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) OnClientCancel(errors::Cancelled());
    absl::MutexLock lock(&mu_);
    writing_ = false;
    WriteNext();
  }

 protected:
  void Begin() override {
    if (auto status = deps_.gate->Enter(); !status.ok()) return (void)End(status);
    entered_ = true;
    core_ = deps_.loaded->get();
    auto input = FromProto(*std::exchange(request_, nullptr));
    if (!input.ok()) return (void)End(input.status());
    auto prepare = [self = Shared(this), input = *std::move(input)] {
      if (auto status = self->Prepare(input); !status.ok()) self->End(status);
    };
    if (!deps_.executor->TryRun(std::move(prepare))) End(errors::Overloaded(absl::Seconds(1)));
  }

  // The loop and the writer of the embeddings learn of it through the token; before there is a
  // ticket, nothing but this ends the call.
  void OnClientCancel(const absl::Status& reason) override {
    CancelWork(reason);
    End(reason);
  }

  void OnEnd(const absl::Status& status) override {
    Report(status);
    Release();
    absl::MutexLock lock(&mu_);
    if (status.ok()) {
      done_ = ToProto(*std::move(result_));
    } else {
      pending_text_.clear();
      failure_ = rpc::ToGrpc(status, request_id_);
    }
    WriteNext();
  }

 private:
  // Runs on a thread of the executor.
  absl::Status Prepare(const DecodeInput& input) {
    CHORD_RETURN_IF_ERROR(token().Check());
    const absl::Time began = absl::Now();
    CHORD_ASSIGN_OR_RETURN(PreparedPrompt prepared, PreparePrompt(input, core_->facts()));
    deps_.metrics->StageTook(obs::Stage::kTokenize, absl::Now() - began);
    const EmbeddingShape& shape = prepared.embeddings;
    const DecodeInput::Use use = input.uses.empty() ? DecodeInput::Use() : input.uses.front();
    shape_bytes_ = shape.rows * shape.width * model::SizeOf(core_->model->options().dtype);
    if (use.pushed) CHORD_RETURN_IF_ERROR(ReserveEmbeddingBytes());
    CHORD_ASSIGN_OR_RETURN(auto ticket, deps_.tickets->Reserve(input.ticket_id, shape, source(),
                                                               absl::Now(), use.pushed));
    const auto prompt_tokens = static_cast<int>(prepared.prompt.ids.size());
    if (!SetTicket(ticket, prompt_tokens)) {
      deps_.tickets->Release(input.ticket_id, absl::Now());
      return errors::Cancelled();
    }
    EndWith(ticket->token());
    return core_->loop->Submit(MakeJob(input, use, std::move(prepared), std::move(ticket)));
  }

  DecodeJob MakeJob(const DecodeInput& input, const DecodeInput::Use& use, PreparedPrompt prepared,
                    std::shared_ptr<Reservation> ticket) {
    DecodeJob job;
    job.request_id = input.request_id;
    job.prompt = std::move(prepared.prompt);
    job.max_new_tokens = input.max_new_tokens;
    job.sampling = core_->sampling;
    job.image = {use.key, use.pin, absl::Seconds(use.keep_seconds)};
    job.push_expected = use.pushed;
    if (input.grammar) job.grammar = std::move(prepared.box_request);
    job.sampling.randomness = input.randomness;
    job.sampling.top_tokens = input.top_tokens;
    job.stop = input.stop;
    job.ticket = std::move(ticket);
    job.received = received();
    job.on_accepted = [self = Shared(this)](std::optional<CacheTier> image, bool needs_embeddings) {
      return self->Accept(image, needs_embeddings);
    };
    job.on_delta = [self = Shared(this)](std::string text) { self->Delta(std::move(text)); };
    job.on_end = [self = Shared(this)](absl::StatusOr<DecodeResult> result) {
      self->EndWithResult(std::move(result));
    };
    return job;
  }

  // Takes the memory that the embeddings will need before their writer may come.
  absl::Status ReserveEmbeddingBytes() {
    if (!core_->embeddings->TryTake(shape_bytes_)) return errors::Overloaded(absl::Seconds(1));
    {
      absl::MutexLock lock(&mu_);
      if (!released_) {
        embedding_bytes_ = shape_bytes_;
        return absl::OkStatus();
      }
    }
    core_->embeddings->Give(shape_bytes_);
    return errors::Cancelled();
  }

  // False when the call has released what it holds; the ticket is the caller's to release then.
  bool SetTicket(std::shared_ptr<Reservation> ticket, int prompt_tokens) {
    absl::MutexLock lock(&mu_);
    if (released_) return false;
    report_.log().prompt_tokens = prompt_tokens;
    report_.log().image_tokens = ticket->shape().rows;
    prompt_tokens_ = prompt_tokens;
    ticket_ = std::move(ticket);
    return true;
  }

  // The loop's callbacks; they run on its thread.
  absl::Status Accept(std::optional<CacheTier> image, bool needs_embeddings) {
    if (needs_embeddings) CHORD_RETURN_IF_ERROR(ReserveEmbeddingBytes());
    absl::MutexLock lock(&mu_);
    if (released_) return errors::Cancelled();
    accepted_.emplace();
    accepted_->set_prompt_tokens(prompt_tokens_);
    accepted_->set_image(rpc::ToProto(image));
    accepted_->set_needs_embeddings(needs_embeddings);
    WriteNext();
    return absl::OkStatus();
  }
  void Delta(std::string text) {
    absl::MutexLock lock(&mu_);
    if (released_) return;
    pending_text_ += text;
    has_text_ = true;
    WriteNext();
  }
  void EndWithResult(absl::StatusOr<DecodeResult> result) {
    const absl::Status status = result.status();
    if (status.ok()) {
      absl::MutexLock lock(&mu_);
      result_ = *std::move(result);
    }
    End(status);
  }

  void Report(const absl::Status& status) {
    absl::MutexLock lock(&mu_);
    if (status.ok()) ReportResult(*result_);
    report_.End(status, WhereNow());
  }

  void ReportResult(const DecodeResult& result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    obs::Metrics& metrics = *deps_.metrics;
    obs::RequestLog& log = report_.log();
    log.new_tokens = static_cast<int64_t>(result.ids.size());
    log.stages = {{obs::Stage::kQueue, result.queue},
                  {obs::Stage::kReceive, result.wait_embeddings},
                  {obs::Stage::kPrefill, result.prefill},
                  {obs::Stage::kDecode, result.decode}};
    metrics.TimeToFirstToken(result.ttft);
    metrics.PromptLength(log.prompt_tokens);
    metrics.AnswerLength(log.new_tokens);
    metrics.Tokens(obs::TokenKind::kImage, log.image_tokens);
    metrics.Tokens(obs::TokenKind::kPrompt, log.prompt_tokens - log.image_tokens);
    const auto forced = std::count(result.jump_forward.begin(), result.jump_forward.end(), true);
    metrics.Tokens(obs::TokenKind::kForced, forced);
    metrics.Tokens(obs::TokenKind::kGenerated, log.new_tokens - forced);
    if (result.image) metrics.ServedBy(*result.image);
  }

  obs::Point WhereNow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (ticket_ == nullptr) return obs::Point::kQueue;
    if (has_text_) return obs::Point::kDecode;
    return ticket_->state() == TicketState::kTaken ? obs::Point::kPrefill : obs::Point::kReceive;
  }

  // Returns the ticket, the memory and the place inside the gate.
  void Release() {
    int64_t bytes;
    bool reserved;
    {
      absl::MutexLock lock(&mu_);
      released_ = true;
      bytes = std::exchange(embedding_bytes_, 0);
      reserved = ticket_ != nullptr;
    }
    if (reserved) {
      deps_.tickets->Release(ticket_id_, absl::Now());
    } else if (IsTicketId(ticket_id_)) {
      deps_.tickets->Refuse(ticket_id_, absl::Now());
    }
    if (bytes > 0) core_->embeddings->Give(bytes);
    if (entered_) deps_.gate->Leave();
  }

  // One write at a time. Text that arrives meanwhile goes as one event, so a slow reader holds no
  // more than its own answer.
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || finished_) return;
    event_.Clear();
    if (failure_) {
      finished_ = true;
      return Finish(*failure_);
    }
    if (accepted_) {
      *event_.mutable_accepted() = *std::move(accepted_);
      accepted_.reset();
    } else if (!pending_text_.empty()) {
      event_.mutable_delta()->set_text(std::exchange(pending_text_, {}));
    } else if (done_) {
      *event_.mutable_done() = *std::move(done_);
      finished_ = true;
      return StartWriteAndFinish(&event_, grpc::WriteOptions(), grpc::Status::OK);
    } else {
      return;
    }
    writing_ = true;
    StartWrite(&event_);
  }

  const Deps& deps_;
  const v1::DecodeRequest* request_;
  const std::string request_id_, ticket_id_;
  Core* core_ = nullptr;
  int64_t shape_bytes_ = 0;
  bool entered_ = false;

  absl::Mutex mu_;
  rpc::CallReport report_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<Reservation> ticket_ ABSL_GUARDED_BY(mu_);
  int prompt_tokens_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t embedding_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  std::optional<DecodeResult> result_ ABSL_GUARDED_BY(mu_);
  bool has_text_ ABSL_GUARDED_BY(mu_) = false;
  bool released_ ABSL_GUARDED_BY(mu_) = false;  // nothing may be taken for the call any more
  bool finished_ ABSL_GUARDED_BY(mu_) = false;  // gRPC was told
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  v1::DecodeEvent event_ ABSL_GUARDED_BY(mu_);  // being written
  std::optional<v1::Accepted> accepted_ ABSL_GUARDED_BY(mu_);
  std::string pending_text_ ABSL_GUARDED_BY(mu_);
  std::optional<v1::DecodeDone> done_ ABSL_GUARDED_BY(mu_);
  std::optional<grpc::Status> failure_ ABSL_GUARDED_BY(mu_);
};

grpc::ServerWriteReactor<v1::DecodeEvent>* DecodeService::Decode(
    grpc::CallbackServerContext* context, const v1::DecodeRequest* request) {
  return rpc::StartCall<Call>(nullptr, deps_, context, request);
}

grpc::ServerUnaryReactor* DecodeService::DropImage(grpc::CallbackServerContext*,
                                                   const v1::DropImageRequest* request,
                                                   v1::DropImageResponse*) {
  absl::Status status = deps_.gate->Enter();
  if (status.ok()) {
    if (request->key().size() == kKeyBytes) {
      deps_.loaded->get()->loop->DropImage(request->key());
    } else {
      status = errors::ParameterInvalid("key", "32 bytes");
    }
    deps_.gate->Leave();
  }
  return rpc::EndCall<grpc::ServerUnaryReactor>(status, "");
}

}  // namespace chord::llm_worker
