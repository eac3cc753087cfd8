#include "services/gateway/routing/worker_calls.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/obs/log.h"
#include "common/rpc/deadline.h"
#include "common/rpc/status_map.h"

namespace chord::gateway {
namespace {

namespace v1 = internal::v1;

// How long the leg that knows the cause may come after the one that only felt it.
constexpr absl::Duration kEchoGrace = absl::Milliseconds(200);
// How long a finished answer waits for the vision worker's times.
constexpr absl::Duration kTimesGrace = absl::Milliseconds(250);
// An answer of max_new_tokens tokens is far below; more is a worker gone wrong.
constexpr size_t kMaxAnswerBytes = 1 << 20;

struct JoinState {
  absl::Mutex mu;
  absl::CondVar changed;
  bool cancelled ABSL_GUARDED_BY(mu) = false;
  bool accepted ABSL_GUARDED_BY(mu) = false;
  bool has_image ABSL_GUARDED_BY(mu) = false;  // the language worker needs no rows
  bool produced ABSL_GUARDED_BY(mu) = false;
  std::optional<absl::Status> decode_end ABSL_GUARDED_BY(mu);
  std::optional<absl::Status> encode_end ABSL_GUARDED_BY(mu);

  void End(std::optional<absl::Status> JoinState::*leg, const grpc::Status& status) {
    absl::MutexLock lock(&mu);
    this->*leg = rpc::FromGrpc(status);
    changed.SignalAll();
  }
};

class DecodeCall final : public grpc::ClientReadReactor<v1::DecodeEvent> {
 public:
  DecodeCall(JoinState& join, const WorkerCallsInput& input) : join_(join), input_(input) {
    rpc::SetDeadline(context_, input.deadline);
  }
  void Start(v1::Language::Stub& stub) {
    stub.async()->Decode(&context_, &input_.decode, this);
    StartRead(&event_);
    StartCall();
  }
  void Cancel() { context_.TryCancel(); }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (event_.has_delta() && input_.on_delta) {
      {
        absl::MutexLock lock(&join_.mu);
        join_.produced = true;
      }
      delta_bytes_ += event_.delta().text().size();
      if (delta_bytes_ <= kMaxAnswerBytes) input_.on_delta(event_.delta().text());
    } else if (event_.has_accepted()) {
      const v1::Accepted& accepted = event_.accepted();
      absl::MutexLock lock(&join_.mu);
      join_.accepted = true;
      // A worker that does not know about kept images leaves the field unset and waits for rows.
      join_.has_image = !accepted.needs_rows() && (accepted.image() == v1::CACHE_TIER_EMBEDDINGS ||
                                                   accepted.image() == v1::CACHE_TIER_KV);
      join_.changed.SignalAll();
    } else if (event_.has_done()) {
      done = std::move(*event_.mutable_done());
      has_done = done.text().size() <= kMaxAnswerBytes;
    }
    StartRead(&event_);
  }
  void OnDone(const grpc::Status& status) override {
    join_.End(&JoinState::decode_end,
              status.ok() && !has_done
                  ? grpc::Status(grpc::StatusCode::INTERNAL, "the stream ended without an answer")
                  : status);
  }

  // To be read after the end.
  v1::DecodeDone done;
  bool has_done = false;

 private:
  JoinState& join_;
  const WorkerCallsInput& input_;
  grpc::ClientContext context_;
  v1::DecodeEvent event_;
  size_t delta_bytes_ = 0;
};

class EncodeCall final : public grpc::ClientWriteReactor<v1::EncodeRequest> {
 public:
  EncodeCall(JoinState& join, const WorkerCallsInput& input) : join_(join), rest_(input.image) {
    rpc::SetDeadline(context_, input.deadline);
    *request_.mutable_header() = input.encode;
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
  void OnDone(const grpc::Status& status) override { join_.End(&JoinState::encode_end, status); }

  v1::EncodeResponse response;  // to be read after the end

 private:
  JoinState& join_;
  absl::string_view rest_;
  grpc::ClientContext context_;
  v1::EncodeRequest request_;
};

bool OnlyOurs(absl::string_view reason) {
  for (absl::string_view known : {"TICKET_UNKNOWN", "TICKET_REUSED", "EMBEDDING_MISMATCH",
                                  "EMBEDDING_NOT_FINITE", "PEER_UNKNOWN"}) {
    if (reason == known) return true;
  }
  return false;
}

}  // namespace

absl::Status ForOutside(const absl::Status& leg, absl::string_view role) {
  if (leg.ok()) return leg;
  if (IsCatalogued(leg)) {
    const std::string reason = ErrorReason(leg);
    if (OnlyOurs(reason)) return errors::Internal();
    if (reason == "CANCELLED") return errors::WorkerLost(role);  // we did not cancel it
    if (reason == "SHUTTING_DOWN") return errors::WorkerUnavailable(role);
    return leg;
  }
  switch (leg.code()) {
    case absl::StatusCode::kDeadlineExceeded:
      return errors::DeadlineExceeded();
    case absl::StatusCode::kResourceExhausted:
      return errors::Overloaded(absl::Seconds(1));
    case absl::StatusCode::kUnimplemented:  // another release answers there
      return errors::WorkerUnavailable(role);
    default:  // the connection broke, in one of the library's many words for it
      return errors::WorkerLost(role);
  }
}

bool IsEcho(const absl::Status& leg) {
  if (leg.ok()) return false;
  if (!IsCatalogued(leg)) return leg.code() == absl::StatusCode::kCancelled;
  const std::string reason = ErrorReason(leg);
  return reason == "TICKET_UNKNOWN" || reason == "CANCELLED" || reason == "WORKER_LOST";
}

// True for failures after which another worker may do.
static bool MeansLost(const absl::Status& outside) {
  const std::string reason = ErrorReason(outside);
  return reason == "WORKER_LOST" || reason == "WORKER_UNAVAILABLE";
}

absl::StatusOr<WorkerCallsOutput> CallWorkers(v1::Language::Stub& language,
                                              const WorkerCallsInput& input,
                                              WorkerCallsFailure& failure) {
  failure = {};
  JoinState join;
  DecodeCall decode(join, input);
  std::unique_ptr<EncodeCall> encode;
  // Declared after the legs, so that it is gone before them; its end waits for a running callback,
  // which takes the join's lock.
  const auto wake = input.cancel.OnCancel([&join] {
    absl::MutexLock lock(&join.mu);
    join.cancelled = true;
    join.changed.SignalAll();
  });
  bool asked = false;
  std::string vision_worker;
  std::optional<absl::Status> no_vision;  // the answer of `vision` when there is no worker
  const auto open_encode = [&] {
    asked = true;
    const auto vision = input.vision();
    if (!vision.ok()) {
      no_vision = vision.status();
      return;
    }
    vision_worker = vision->worker;
    encode = std::make_unique<EncodeCall>(join, input);
    encode->Start(*vision->stub);
  };
  decode.Start(language);
  if (!input.only_if_needed) open_encode();

  absl::MutexLock lock(&join.mu);
  const auto all_ended = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(join.mu) {
    return join.decode_end && (encode == nullptr || join.encode_end);
  };
  const auto failed = [](const std::optional<absl::Status>& end) { return end && !end->ok(); };

  // The first turn of events that settles the request: cancellation, the deadline, an answer, or a
  // failure whose cause is known or does not come to be known in time.
  absl::Time grace_ends = absl::InfiniteFuture();
  while (!all_ended() && !no_vision) {
    const absl::Time now = absl::Now();
    if (join.cancelled || now >= input.deadline || now >= grace_ends) break;
    if (join.accepted && !join.has_image && !asked) {
      join.mu.Unlock();
      open_encode();
      join.mu.Lock();
      continue;
    }
    if (join.has_image && encode != nullptr && !join.encode_end) {
      join.mu.Unlock();  // the call may end on this very thread
      encode->Cancel();
      join.mu.Lock();
      while (!join.encode_end) join.changed.Wait(&join.mu);
      continue;
    }
    const bool encode_failed = failed(join.encode_end) && !join.has_image;
    if (grace_ends == absl::InfiniteFuture()) {
      if (failed(join.decode_end) || encode_failed) {
        const absl::Status& first = failed(join.decode_end) ? *join.decode_end : *join.encode_end;
        if (!IsEcho(first)) break;
        grace_ends = now + kEchoGrace;
      } else if (join.decode_end) {
        grace_ends = now + kTimesGrace;
      }
    }
    join.changed.WaitWithDeadline(&join.mu, std::min(input.deadline, grace_ends));
  }
  const std::optional<absl::Status> decode_end = join.decode_end;
  std::optional<absl::Status> encode_end = join.encode_end;
  // Deadline of our own or the client's wish: both legs hear of it, whatever they were doing.
  while (!all_ended()) {
    const bool end_decode = !join.decode_end;
    const bool end_encode = encode != nullptr && !join.encode_end;
    join.mu.Unlock();  // a leg may end on this very thread
    if (end_decode) decode.Cancel();
    if (end_encode) encode->Cancel();
    join.mu.Lock();
    while (!all_ended()) join.changed.Wait(&join.mu);
  }
  failure.produced = join.produced;
  if (join.has_image) encode_end.reset();  // we ended it ourselves

  WorkerCallsOutput out;
  if (decode_end && decode_end->ok()) {
    out.decode = std::move(decode.done);
    out.encoded = encode != nullptr && !join.has_image;
    if (encode_end && encode_end->ok()) out.encode = encode->response;
    return out;
  }
  const auto log = [&](const std::optional<absl::Status>& end, absl::string_view leg,
                       const std::string& worker) {
    if (!failed(end)) return;
    obs::Log(obs::LogLevel::kInfo, "leg_failed", input.decode.ticket().request_id(),
             {{"leg", leg},
              {"worker", worker},
              {"reason", ErrorReason(*end)},
              {"text", end->message()}});
  };
  log(decode_end, "language", input.encode.target());
  log(encode_end, "vision", vision_worker);
  if (auto status = input.cancel.Check(); !status.ok()) return status;
  if (absl::Now() >= input.deadline) return errors::DeadlineExceeded();
  const bool decode_failed = failed(decode_end), encode_failed = failed(encode_end);
  const auto blame = [&](WorkerCallsFailure::Where where, const absl::Status& end,
                         const char* role) {
    absl::Status outside = ForOutside(end, role);
    failure.where = where;
    failure.worker_lost = MeansLost(outside);
    return outside;
  };
  if (decode_failed && !(IsEcho(*decode_end) && encode_failed && !IsEcho(*encode_end))) {
    // Both legs broke: the one that went away by itself is the cause, and an echo names it.
    if (!encode_failed || !IsEcho(*decode_end)) {
      return blame(WorkerCallsFailure::Where::kLanguage, *decode_end, "language");
    }
    return blame(WorkerCallsFailure::Where::kVision, *encode_end, "vision");
  }
  if (encode_failed && ErrorReason(*encode_end) == "PEER_UNKNOWN") {
    failure.where = WorkerCallsFailure::Where::kLanguage;
    failure.worker_lost = failure.not_known = true;
    return errors::WorkerUnavailable("language");
  }
  if (encode_failed) {
    const bool between = ErrorReason(*encode_end) == "WORKER_LOST";  // it means the other one
    return blame(between ? WorkerCallsFailure::Where::kBetween : WorkerCallsFailure::Where::kVision,
                 *encode_end, "vision");
  }
  if (no_vision) return *no_vision;
  return errors::Internal();
}

}  // namespace chord::gateway
