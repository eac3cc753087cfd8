#include "services/gateway/legs.h"

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

struct Meeting {
  absl::Mutex mu;
  absl::CondVar changed;
  bool cancelled ABSL_GUARDED_BY(mu) = false;
  bool accepted ABSL_GUARDED_BY(mu) = false;
  bool has_picture ABSL_GUARDED_BY(mu) = false;  // the language worker needs no rows
  bool produced ABSL_GUARDED_BY(mu) = false;
  std::optional<absl::Status> decode_end ABSL_GUARDED_BY(mu);
  std::optional<absl::Status> encode_end ABSL_GUARDED_BY(mu);

  void End(std::optional<absl::Status> Meeting::*leg, const grpc::Status& status) {
    absl::MutexLock lock(&mu);
    this->*leg = rpc::FromGrpc(status);
    changed.SignalAll();
  }
};

class DecodeLeg final : public grpc::ClientReadReactor<v1::DecodeEvent> {
 public:
  DecodeLeg(Meeting& meeting, const LegsInput& input) : meeting_(meeting), input_(input) {
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
        absl::MutexLock lock(&meeting_.mu);
        meeting_.produced = true;
      }
      delta_bytes_ += event_.delta().text().size();
      if (delta_bytes_ <= kMaxAnswerBytes) input_.on_delta(event_.delta().text());
    } else if (event_.has_accepted()) {
      const v1::Accepted& accepted = event_.accepted();
      absl::MutexLock lock(&meeting_.mu);
      meeting_.accepted = true;
      // A worker that does not know about kept pictures leaves the field unset and waits for rows.
      meeting_.has_picture =
          !accepted.needs_rows() && (accepted.picture() == v1::PICTURE_FROM_EMBEDDINGS ||
                                     accepted.picture() == v1::PICTURE_FROM_KV);
      meeting_.changed.SignalAll();
    } else if (event_.has_done()) {
      done = std::move(*event_.mutable_done());
      has_done = done.text().size() <= kMaxAnswerBytes;
    }
    StartRead(&event_);
  }
  void OnDone(const grpc::Status& status) override {
    meeting_.End(&Meeting::decode_end, status.ok() && !has_done
                                           ? grpc::Status(grpc::StatusCode::INTERNAL,
                                                          "the stream ended without an answer")
                                           : status);
  }

  // To be read after the end.
  v1::DecodeDone done;
  bool has_done = false;

 private:
  Meeting& meeting_;
  const LegsInput& input_;
  grpc::ClientContext context_;
  v1::DecodeEvent event_;
  size_t delta_bytes_ = 0;
};

class EncodeLeg final : public grpc::ClientWriteReactor<v1::EncodeRequest> {
 public:
  EncodeLeg(Meeting& meeting, const LegsInput& input) : meeting_(meeting), rest_(input.image) {
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
  void OnDone(const grpc::Status& status) override { meeting_.End(&Meeting::encode_end, status); }

  v1::EncodeResponse response;  // to be read after the end

 private:
  Meeting& meeting_;
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

absl::StatusOr<LegsOutput> RunLegs(v1::Language::Stub& language, const LegsInput& input,
                                   LegsFailure& failure) {
  failure = {};
  Meeting meeting;
  DecodeLeg decode(meeting, input);
  std::unique_ptr<EncodeLeg> encode;
  // Declared after the legs, so that it is gone before them; its end waits for a running callback,
  // which takes the meeting's lock.
  const auto wake = input.cancel.OnCancel([&meeting] {
    absl::MutexLock lock(&meeting.mu);
    meeting.cancelled = true;
    meeting.changed.SignalAll();
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
    encode = std::make_unique<EncodeLeg>(meeting, input);
    encode->Start(*vision->stub);
  };
  decode.Start(language);
  if (!input.only_if_needed) open_encode();

  absl::MutexLock lock(&meeting.mu);
  const auto all_ended = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(meeting.mu) {
    return meeting.decode_end && (encode == nullptr || meeting.encode_end);
  };
  const auto failed = [](const std::optional<absl::Status>& end) { return end && !end->ok(); };

  // The first turn of events that settles the request: cancellation, the deadline, an answer, or a
  // failure whose cause is known or does not come to be known in time.
  absl::Time grace_ends = absl::InfiniteFuture();
  while (!all_ended() && !no_vision) {
    const absl::Time now = absl::Now();
    if (meeting.cancelled || now >= input.deadline || now >= grace_ends) break;
    if (meeting.accepted && !meeting.has_picture && !asked) {
      meeting.mu.Unlock();
      open_encode();
      meeting.mu.Lock();
      continue;
    }
    if (meeting.has_picture && encode != nullptr && !meeting.encode_end) {
      meeting.mu.Unlock();  // the call may end on this very thread
      encode->Cancel();
      meeting.mu.Lock();
      while (!meeting.encode_end) meeting.changed.Wait(&meeting.mu);
      continue;
    }
    const bool encode_failed = failed(meeting.encode_end) && !meeting.has_picture;
    if (grace_ends == absl::InfiniteFuture()) {
      if (failed(meeting.decode_end) || encode_failed) {
        const absl::Status& first =
            failed(meeting.decode_end) ? *meeting.decode_end : *meeting.encode_end;
        if (!IsEcho(first)) break;
        grace_ends = now + kEchoGrace;
      } else if (meeting.decode_end) {
        grace_ends = now + kTimesGrace;
      }
    }
    meeting.changed.WaitWithDeadline(&meeting.mu, std::min(input.deadline, grace_ends));
  }
  const std::optional<absl::Status> decode_end = meeting.decode_end;
  std::optional<absl::Status> encode_end = meeting.encode_end;
  // Deadline of our own or the client's wish: both legs hear of it, whatever they were doing.
  while (!all_ended()) {
    const bool end_decode = !meeting.decode_end;
    const bool end_encode = encode != nullptr && !meeting.encode_end;
    meeting.mu.Unlock();  // a leg may end on this very thread
    if (end_decode) decode.Cancel();
    if (end_encode) encode->Cancel();
    meeting.mu.Lock();
    while (!all_ended()) meeting.changed.Wait(&meeting.mu);
  }
  failure.produced = meeting.produced;
  if (meeting.has_picture) encode_end.reset();  // we ended it ourselves

  LegsOutput out;
  if (decode_end && decode_end->ok()) {
    out.decode = std::move(decode.done);
    out.encoded = encode != nullptr && !meeting.has_picture;
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
  const auto blame = [&](LegsFailure::Where where, const absl::Status& end, const char* role) {
    absl::Status outside = ForOutside(end, role);
    failure.where = where;
    failure.worker_lost = MeansLost(outside);
    return outside;
  };
  if (decode_failed && !(IsEcho(*decode_end) && encode_failed && !IsEcho(*encode_end))) {
    // Both legs broke: the one that went away by itself is the cause, and an echo names it.
    if (!encode_failed || !IsEcho(*decode_end)) {
      return blame(LegsFailure::Where::kLanguage, *decode_end, "language");
    }
    return blame(LegsFailure::Where::kVision, *encode_end, "vision");
  }
  if (encode_failed && ErrorReason(*encode_end) == "PEER_UNKNOWN") {
    failure.where = LegsFailure::Where::kLanguage;
    failure.worker_lost = failure.not_known = true;
    return errors::WorkerUnavailable("language");
  }
  if (encode_failed) {
    const bool between = ErrorReason(*encode_end) == "WORKER_LOST";  // it means the other one
    return blame(between ? LegsFailure::Where::kBetween : LegsFailure::Where::kVision, *encode_end,
                 "vision");
  }
  if (no_vision) return *no_vision;
  return errors::Internal();
}

}  // namespace chord::gateway
