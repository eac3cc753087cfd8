#include "services/llm_worker/decode_service.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/status_macros.h"
#include "common/obs/log.h"
#include "common/rpc/deadline.h"
#include "common/rpc/frame_codec.h"
#include "common/rpc/status_map.h"

namespace chord::llm_worker {
namespace {

namespace v1 = internal::v1;

// The gateway always sets a deadline; a caller that does not gets this one.
constexpr absl::Duration kLongestCall = absl::Minutes(10);

absl::StatusOr<DecodeInput> FromProto(const v1::DecodeRequest& request) {
  DecodeInput out;
  out.ticket_id = request.ticket().id();
  out.request_id = request.ticket().request_id().substr(0, 64);
  out.model_fingerprint = request.ticket().model_fingerprint();
  out.max_new_tokens = request.max_new_tokens();
  for (const v1::Turn& turn : request.turns()) {
    model::Message message{turn.role(), {}};
    for (const v1::Part& part : turn.parts()) {
      if (part.has_text()) {
        message.parts.emplace_back(part.text());
      } else if (part.has_image()) {
        message.parts.emplace_back(model::ImagePart{part.image()});
      } else {
        return errors::ParameterInvalid("parts", "texts and images");
      }
    }
    out.messages.push_back(std::move(message));
  }
  for (const v1::FramePlan& image : request.images()) {
    CHORD_ASSIGN_OR_RETURN(auto plan, rpc::FromProto(image));
    out.images.push_back(plan);
  }
  out.grammar = request.grammar();
  for (const v1::ImageUse& use : request.uses()) {
    out.uses.push_back({use.key(), use.pushed(), use.pin(), use.keep_seconds()});
  }
  return out;
}

v1::CacheTier ToProto(CacheTier from) {
  switch (from) {
    case CacheTier::kNoImage:
      break;
    case CacheTier::kRows:
      return v1::CACHE_TIER_NONE;
    case CacheTier::kEmbeddings:
      return v1::CACHE_TIER_EMBEDDINGS;
    case CacheTier::kKv:
      return v1::CACHE_TIER_KV;
  }
  return v1::CACHE_TIER_UNSPECIFIED;
}

v1::DecodeDone ToProto(DecodeResult result) {
  v1::DecodeDone out;
  out.set_text(std::move(result.text));
  out.mutable_token_ends()->Assign(result.token_ends.begin(), result.token_ends.end());
  out.mutable_log_probabilities()->Assign(result.log_probabilities.begin(),
                                          result.log_probabilities.end());
  out.mutable_forced()->Assign(result.forced.begin(), result.forced.end());
  for (const ListChoice& choice : result.choices) {
    v1::ListChoice& to = *out.add_choices();
    to.set_offset(choice.offset);
    to.set_log_close(choice.log_close);
    to.set_log_more(choice.log_more);
  }
  out.set_image(ToProto(result.image));
  out.set_grammar(result.grammar);
  out.set_cached_tokens(result.cached_tokens);
  out.set_cut(result.cut);
  out.set_prompt_tokens(result.prompt_tokens);
  out.set_completion_tokens(static_cast<int>(result.ids.size()));
  out.set_decode_steps(result.decode_steps);
  out.set_queue_ms(absl::ToDoubleMilliseconds(result.queue));
  out.set_wait_embeddings_ms(absl::ToDoubleMilliseconds(result.wait_embeddings));
  out.set_prefill_ms(absl::ToDoubleMilliseconds(result.prefill));
  out.set_ttft_ms(absl::ToDoubleMilliseconds(result.ttft));
  out.set_decode_ms(absl::ToDoubleMilliseconds(result.decode));
  if (result.log_probability_empty) out.set_log_probability_empty(*result.log_probability_empty);
  return out;
}

}  // namespace

// Lives from the call's arrival until gRPC and everybody who was handed a share let go of it. The
// call has one end, whoever brings it first: the loop, the client, the deadline, the push.
class DecodeService::Call : public grpc::ServerWriteReactor<v1::DecodeEvent>,
                            public std::enable_shared_from_this<Call> {
 public:
  Call(const Deps& deps, grpc::CallbackServerContext* context)
      : deps_(deps),
        received_(absl::Now()),
        source_(std::min(rpc::DeadlineOf(*context), received_ + kLongestCall)) {}

  void Begin(const v1::DecodeRequest& request) {
    self_ = shared_from_this();
    deps_.metrics->RequestBegan(obs::Method::kDecode);
    log_.request_id = request.ticket().request_id().substr(0, 64);
    ticket_id_ = request.ticket().id().substr(0, 32);
    if (auto status = deps_.gate->Enter(); !status.ok()) return End(status);
    entered_ = true;
    auto input = FromProto(request);
    if (!input.ok()) return End(input.status());
    auto prepare = [self = shared_from_this(), input = *std::move(input)] {
      if (auto status = self->Prepare(input); !status.ok()) self->End(status);
    };
    if (!deps_.executor->TryRun(std::move(prepare))) End(errors::Overloaded(absl::Seconds(1)));
  }

  void OnWriteDone(bool ok) override {
    if (!ok) Stop(errors::Cancelled());
    absl::MutexLock lock(&mu_);
    writing_ = false;
    WriteNext();
  }
  void OnCancel() override {
    Stop(absl::Now() >= source_.token().deadline() ? errors::DeadlineExceeded()
                                                   : errors::Cancelled());
  }
  void OnDone() override {
    CancelToken::Registration last;
    {
      absl::MutexLock lock(&mu_);
      std::swap(last, on_cancel_);
    }
    auto self = std::move(self_);
  }

 private:
  // On a thread of the executor.
  absl::Status Prepare(const DecodeInput& input) {
    CHORD_RETURN_IF_ERROR(source_.token().Check());
    core_ = deps_.core();
    const absl::Time began = absl::Now();
    CHORD_ASSIGN_OR_RETURN(PreparedPrompt prepared, PreparePrompt(input, core_->facts()));
    deps_.metrics->StageTook(obs::Stage::kTokenize, absl::Now() - began);
    const EmbeddingShape& shape = prepared.embeddings;
    const DecodeInput::Use use = input.uses.empty() ? DecodeInput::Use() : input.uses.front();
    row_bytes_ = shape.rows * shape.width * model::SizeOf(core_->model->options().dtype);
    if (use.pushed) CHORD_RETURN_IF_ERROR(TakeRowBytes());
    CHORD_ASSIGN_OR_RETURN(auto ticket, deps_.tickets->Reserve(input.ticket_id, shape, source_,
                                                               absl::Now(), use.pushed));
    const auto prompt_tokens = static_cast<int>(prepared.prompt.ids.size());
    const bool held = Hold([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      ticket_ = ticket;
      log_.prompt_tokens = prompt_tokens;
      log_.image_tokens = shape.rows;
    });
    if (!held) {
      deps_.tickets->Release(input.ticket_id, absl::Now());
      return errors::Cancelled();
    }
    Watch(ticket->token());
    DecodeJob job;
    job.request_id = input.request_id;
    job.prompt = std::move(prepared.prompt);
    job.max_new_tokens = input.max_new_tokens;
    job.image = {use.key, use.pin, absl::Seconds(use.keep_seconds)};
    job.pushed = use.pushed;
    if (input.grammar) job.grammar = std::move(prepared.box_request);
    job.ticket = std::move(ticket);
    job.received = received_;
    job.on_accepted = [self = shared_from_this(), prompt_tokens](CacheTier from, bool needs_rows) {
      return self->Accepted(prompt_tokens, from, needs_rows);
    };
    job.on_delta = [self = shared_from_this()](std::string text) { self->Delta(std::move(text)); };
    job.on_end = [self = shared_from_this()](absl::StatusOr<DecodeResult> result) {
      self->End(std::move(result));
    };
    return core_->loop->Submit(std::move(job));
  }

  // What the rows will need, taken before their writer may come.
  absl::Status TakeRowBytes() {
    if (!core_->embeddings->TryTake(row_bytes_)) return errors::Overloaded(absl::Seconds(1));
    // The call may end at any time; what is taken after that is given back here.
    if (Hold([&] { embedding_bytes_ = row_bytes_; })) return absl::OkStatus();
    core_->embeddings->Give(row_bytes_);
    return errors::Cancelled();
  }

  // On the loop's thread.
  absl::Status Accepted(int prompt_tokens, CacheTier from, bool needs_rows) {
    if (needs_rows) CHORD_RETURN_IF_ERROR(TakeRowBytes());
    absl::MutexLock lock(&mu_);
    if (ended_) return errors::Cancelled();
    accepted_.emplace();
    accepted_->set_prompt_tokens(prompt_tokens);
    accepted_->set_image(ToProto(from));
    accepted_->set_needs_rows(needs_rows);
    WriteNext();
    return absl::OkStatus();
  }

  template <typename Fn>
  bool Hold(Fn fn) {
    absl::MutexLock lock(&mu_);
    if (ended_) return false;
    fn();
    return true;
  }

  // Ends the call when its ticket is cancelled, for whatever reason.
  void Watch(const CancelToken& token) {
    auto registration = token.OnCancel([weak = weak_from_this(), token] {
      if (auto self = weak.lock()) self->End(token.Check());
    });
    absl::MutexLock lock(&mu_);
    if (!ended_) std::swap(on_cancel_, registration);
  }

  void Stop(absl::Status reason) {
    source_.Cancel(reason);  // the loop and the push hear of it
    End(std::move(reason));  // also before there is a ticket
  }

  void Delta(std::string text) {
    absl::MutexLock lock(&mu_);
    if (ended_) return;
    pending_text_ += text;
    has_text_ = true;
    WriteNext();
  }

  void End(absl::StatusOr<DecodeResult> result) {
    {
      absl::MutexLock lock(&mu_);
      if (ended_) return;
      ended_ = true;
    }
    Report(result);
    LetGo();
    absl::MutexLock lock(&mu_);
    if (result.ok()) {
      done_ = ToProto(*std::move(result));
    } else {
      pending_text_.clear();
      failure_ = rpc::ToGrpc(result.status(), log_.request_id);
    }
    WriteNext();
  }

  // Nobody else touches log_ once the call has ended.
  void Report(const absl::StatusOr<DecodeResult>& result) {
    obs::Metrics& metrics = *deps_.metrics;
    log_.method = obs::Method::kDecode;
    log_.status = result.status();
    log_.took = absl::Now() - received_;
    if (result.ok()) {
      log_.new_tokens = static_cast<int64_t>(result->ids.size());
      log_.stages = {{obs::Stage::kQueue, result->queue},
                     {obs::Stage::kReceive, result->wait_embeddings},
                     {obs::Stage::kPrefill, result->prefill},
                     {obs::Stage::kDecode, result->decode}};
      for (const auto& [stage, took] : log_.stages) metrics.StageTook(stage, took);
      metrics.TimeToFirstToken(result->ttft);
      metrics.PromptLength(log_.prompt_tokens);
      metrics.AnswerLength(log_.new_tokens);
      metrics.Tokens(obs::TokenKind::kImage, log_.image_tokens);
      metrics.Tokens(obs::TokenKind::kPrompt, log_.prompt_tokens - log_.image_tokens);
      const auto forced = std::count(result->forced.begin(), result->forced.end(), true);
      metrics.Tokens(obs::TokenKind::kForced, forced);
      metrics.Tokens(obs::TokenKind::kGenerated, log_.new_tokens - forced);
      switch (result->image) {
        case CacheTier::kNoImage:
          break;
        case CacheTier::kRows:
          metrics.ServedBy(obs::CacheTier::kNone);
          break;
        case CacheTier::kEmbeddings:
          metrics.ServedBy(obs::CacheTier::kEmbeddings);
          break;
        case CacheTier::kKv:
          metrics.ServedBy(obs::CacheTier::kKv);
          break;
      }
    } else if (absl::IsCancelled(result.status())) {
      metrics.Cancelled(WhereNow());
    } else if (absl::IsDeadlineExceeded(result.status())) {
      metrics.DeadlineExceeded(WhereNow());
    } else {
      metrics.Rejected(ErrorReason(result.status()));
    }
    metrics.RequestEnded(obs::Method::kDecode, ForClient(result.status()).code(), log_.took);
    obs::LogRequest(log_);
  }

  obs::Point WhereNow() {
    absl::MutexLock lock(&mu_);
    if (ticket_ == nullptr) return obs::Point::kQueue;
    if (has_text_) return obs::Point::kDecode;
    return ticket_->state() == TicketState::kTaken ? obs::Point::kPrefill : obs::Point::kReceive;
  }

  void LetGo() {
    int64_t bytes;
    bool reserved;
    {
      absl::MutexLock lock(&mu_);
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

  // One write at a time; text that piles up meanwhile goes as one event, so a slow reader holds no
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
  const absl::Time received_;
  CancelSource source_;
  std::shared_ptr<Call> self_;  // until OnDone
  Core* core_ = nullptr;
  std::string ticket_id_;
  int64_t row_bytes_ = 0;
  bool entered_ = false;

  absl::Mutex mu_;
  CancelToken::Registration on_cancel_ ABSL_GUARDED_BY(mu_);
  obs::RequestLog log_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<Reservation> ticket_ ABSL_GUARDED_BY(mu_);
  bool has_text_ ABSL_GUARDED_BY(mu_) = false;
  int64_t embedding_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;     // the outcome is known
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
  auto call = std::make_shared<Call>(deps_, context);
  call->Begin(*request);
  return call.get();
}

grpc::ServerUnaryReactor* DecodeService::DropImage(grpc::CallbackServerContext* context,
                                                   const v1::DropImageRequest* request,
                                                   v1::DropImageResponse*) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  absl::Status status = deps_.gate->Enter();
  if (status.ok()) {
    if (request->key().size() == kKeyBytes) {
      deps_.core()->loop->DropImage(request->key());
    } else {
      status = errors::ParameterInvalid("key", "32 bytes");
    }
    deps_.gate->Leave();
  }
  reactor->Finish(rpc::ToGrpc(status, ""));
  return reactor;
}

}  // namespace chord::llm_worker
