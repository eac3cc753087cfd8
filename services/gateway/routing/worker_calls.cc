#include "services/gateway/routing/worker_calls.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/obs/log.h"
#include "common/rpc/deadline.h"
#include "common/rpc/status_map.h"
#include "common/rpc/trace_metadata.h"
#include "services/gateway/routing/worker_codec.h"

namespace chord::gateway {

namespace v1 = internal::v1;

namespace {

// How long the call that knows the cause may come after the one that only felt it.
constexpr absl::Duration kEchoGrace = absl::Milliseconds(200);
// How long a finished answer waits for the vision worker's times.
constexpr absl::Duration kTimesGrace = absl::Milliseconds(250);
// An answer of max_new_tokens tokens is far below; more is a faulty worker.
constexpr size_t kMaxAnswerBytes = 1 << 20;

bool Failed(const std::optional<absl::Status>& end) { return end && !end->ok(); }

}  // namespace

// Where the threads of gRPC and of Run meet.
struct WorkerCalls::Join {
  absl::Mutex mu;
  absl::CondVar changed;
  bool cancelled ABSL_GUARDED_BY(mu) = false;
  bool accepted ABSL_GUARDED_BY(mu) = false;
  bool has_image ABSL_GUARDED_BY(mu) = false;  // the language worker needs no embeddings
  bool produced ABSL_GUARDED_BY(mu) = false;
  bool encode_open ABSL_GUARDED_BY(mu) = false;
  std::optional<absl::Status> decode_end ABSL_GUARDED_BY(mu);
  std::optional<absl::Status> encode_end ABSL_GUARDED_BY(mu);

  bool AllEnded() const ABSL_SHARED_LOCKS_REQUIRED(mu) {
    return decode_end && (!encode_open || encode_end);
  }
  void End(std::optional<absl::Status> Join::*call, const grpc::Status& status) {
    absl::MutexLock lock(&mu);
    this->*call = rpc::FromGrpc(status);
    changed.SignalAll();
  }
};

class WorkerCalls::DecodeCall final : public grpc::ClientReadReactor<v1::DecodeEvent> {
 public:
  DecodeCall(Join& join, const WorkerRequest& request, const Options& options)
      : join_(join), options_(options), request_(ToDecodeRequest(request)) {
    rpc::SetDeadline(context_, options.deadline);
    rpc::PassTrace(request.trace, &context_);
  }
  void Start(v1::Language::Stub& stub) {
    stub.async()->Decode(&context_, &request_, this);
    StartRead(&event_);
    StartCall();
  }
  void Cancel() { context_.TryCancel(); }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (event_.has_delta() && options_.on_delta) {
      OnDelta(event_.delta().text());
    } else if (event_.has_accepted()) {
      OnAccepted(event_.accepted());
    } else if (event_.has_done()) {
      done = std::move(*event_.mutable_done());
      has_done_ = done.text().size() <= kMaxAnswerBytes;
    }
    StartRead(&event_);
  }
  void OnDone(const grpc::Status& status) override {
    join_.End(&Join::decode_end,
              status.ok() && !has_done_
                  ? grpc::Status(grpc::StatusCode::INTERNAL, "the stream ended without an answer")
                  : status);
  }

  v1::DecodeDone done;  // to be read after the end

 private:
  void OnDelta(const std::string& text) {
    {
      absl::MutexLock lock(&join_.mu);
      join_.produced = true;
    }
    delta_bytes_ += text.size();
    if (delta_bytes_ <= kMaxAnswerBytes) options_.on_delta(text);
  }
  void OnAccepted(const v1::Accepted& accepted) {
    {
      absl::MutexLock lock(&join_.mu);
      join_.accepted = true;
      // A worker that keeps no images leaves the field unset and waits for embeddings.
      join_.has_image =
          !accepted.needs_embeddings() &&
          (accepted.image() == v1::CACHE_TIER_EMBEDDINGS || accepted.image() == v1::CACHE_TIER_KV);
      join_.changed.SignalAll();
    }
    if (options_.on_accepted) options_.on_accepted();
  }

  Join& join_;
  const Options& options_;
  const v1::DecodeRequest request_;
  grpc::ClientContext context_;
  v1::DecodeEvent event_;
  size_t delta_bytes_ = 0;
  bool has_done_ = false;
};

class WorkerCalls::EncodeCall final : public grpc::ClientWriteReactor<v1::EncodeRequest> {
 public:
  EncodeCall(Join& join, const WorkerRequest& request, absl::Time deadline)
      : join_(join), rest_(request.image) {
    rpc::SetDeadline(context_, deadline);
    rpc::PassTrace(request.trace, &context_);
    *request_.mutable_header() = ToEncodeHeader(request);
  }
  void Start(v1::Vision::Stub& stub) {
    stub.async()->Encode(&context_, &response, this);
    StartWrite(&request_);
    StartCall();
  }
  void Cancel() { context_.TryCancel(); }
  void OnWriteDone(bool ok) override {
    if (!ok || rest_.empty()) return;
    const absl::string_view chunk = rest_.substr(0, limits::kMaxChunkBytes);
    rest_.remove_prefix(chunk.size());
    request_.set_image_chunk(chunk.data(), chunk.size());
    grpc::WriteOptions options;
    if (rest_.empty()) options.set_last_message();
    StartWrite(&request_, options);
  }
  void OnDone(const grpc::Status& status) override { join_.End(&Join::encode_end, status); }

  v1::EncodeResponse response;  // to be read after the end

 private:
  Join& join_;
  absl::string_view rest_;
  grpc::ClientContext context_;
  v1::EncodeRequest request_;
};

WorkerCalls::WorkerCalls(const WorkerRequest& request, Options options)
    : request_(request), options_(std::move(options)), join_(std::make_unique<Join>()) {}
WorkerCalls::~WorkerCalls() = default;

absl::StatusOr<WorkerAnswer> WorkerCalls::Run(v1::Language::Stub& language) {
  // Its end waits for a running callback.
  const auto wake = options_.cancel.OnCancel([join = join_.get()] {
    absl::MutexLock lock(&join->mu);
    join->cancelled = true;
    join->changed.SignalAll();
  });
  decode_ = std::make_unique<DecodeCall>(*join_, request_, options_);
  decode_->Start(language);
  if (!options_.only_if_needed) OpenEncode();
  AwaitOutcome();
  EndCalls();
  return Outcome();
}

void WorkerCalls::OpenEncode() {
  vision_asked_ = true;
  const absl::StatusOr<VisionTarget> vision = options_.vision();
  if (!vision.ok()) {
    no_vision_ = vision.status();
    return;
  }
  vision_worker_ = vision->worker;
  encode_ = std::make_unique<EncodeCall>(*join_, request_, options_.deadline);
  {
    absl::MutexLock lock(&join_->mu);
    join_->encode_open = true;
  }
  encode_->Start(*vision->stub);
}

// Settled: cancellation, the deadline, an answer, or a failure whose cause is known or does not
// come to be known in time.
WorkerCalls::Step WorkerCalls::NextStep(absl::Time now) {
  const Join& join = *join_;
  join.mu.AssertReaderHeld();
  if (join.AllEnded() || !no_vision_.ok() || join.cancelled || now >= options_.deadline ||
      now >= grace_ends_) {
    return Step::kSettled;
  }
  if (join.accepted && !join.has_image && !vision_asked_) return Step::kOpenEncode;
  if (join.has_image && join.encode_open && !join.encode_end) return Step::kDropEncode;
  if (grace_ends_ != absl::InfiniteFuture()) return Step::kWait;
  const bool encode_failed = Failed(join.encode_end) && !join.has_image;
  if (Failed(join.decode_end) || encode_failed) {
    const absl::Status& first = Failed(join.decode_end) ? *join.decode_end : *join.encode_end;
    if (!IsEcho(first)) return Step::kSettled;
    grace_ends_ = now + kEchoGrace;
  } else if (join.decode_end) {
    grace_ends_ = now + kTimesGrace;
  }
  return Step::kWait;
}

void WorkerCalls::AwaitOutcome() {
  Join& join = *join_;
  while (true) {
    Step step;
    {
      absl::MutexLock lock(&join.mu);
      while ((step = NextStep(absl::Now())) == Step::kWait) {
        join.changed.WaitWithDeadline(&join.mu, std::min(options_.deadline, grace_ends_));
      }
      if (step == Step::kSettled) {
        decode_end_ = join.decode_end;
        // An Encode that was not needed has not failed.
        if (!join.has_image) encode_end_ = join.encode_end;
        return;
      }
    }
    // Without the lock: a call may end on this very thread.
    if (step == Step::kOpenEncode) {
      OpenEncode();
      continue;
    }
    encode_->Cancel();
    absl::MutexLock lock(&join.mu);
    while (!join.encode_end) join.changed.Wait(&join.mu);
  }
}

// Both calls are told, whatever they are doing, and waited for.
void WorkerCalls::EndCalls() {
  Join& join = *join_;
  bool end_decode, end_encode;
  {
    absl::MutexLock lock(&join.mu);
    end_decode = !join.decode_end;
    end_encode = join.encode_open && !join.encode_end;
  }
  if (end_decode) decode_->Cancel();
  if (end_encode) encode_->Cancel();
  absl::MutexLock lock(&join.mu);
  while (!join.AllEnded()) join.changed.Wait(&join.mu);
  produced_ = join.produced;
}

absl::StatusOr<WorkerAnswer> WorkerCalls::Outcome() {
  if (decode_end_ && decode_end_->ok()) {
    WorkerAnswer out = FromProto(decode_->done);
    {
      absl::MutexLock lock(&join_->mu);
      out.encoded = encode_ != nullptr && !join_->has_image;
    }
    if (encode_end_ && encode_end_->ok()) AddEncodeTimes(encode_->response, out);
    return out;
  }
  LogFailure(decode_end_, "decode", request_.language_worker);
  LogFailure(encode_end_, "encode", vision_worker_);
  if (auto status = options_.cancel.Check(); !status.ok()) return status;
  // A worker that could not be had explains a missed deadline.
  if (!no_vision_.ok() && !Failed(decode_end_)) return no_vision_;
  if (absl::Now() >= options_.deadline) return errors::DeadlineExceeded();
  failure_ = JudgeFailure(decode_end_, encode_end_);
  return failure_.status;
}

void WorkerCalls::LogFailure(const std::optional<absl::Status>& end, absl::string_view call,
                             const std::string& worker) const {
  if (!Failed(end)) return;
  obs::Log(obs::LogLevel::kInfo, "worker_call_failed", request_.request_id,
           {{"call", call},
            {"worker", worker},
            {"reason", ErrorReason(*end)},
            {"text", end->message()}});
}

}  // namespace chord::gateway
