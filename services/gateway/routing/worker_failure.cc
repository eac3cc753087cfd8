#include "services/gateway/routing/worker_failure.h"

#include "common/base/errors.h"

namespace chord::gateway {
namespace {

using Where = WorkerFailure::Where;

bool Failed(const std::optional<absl::Status>& end) { return end && !end->ok(); }

WorkerFailure Blame(Where where, const absl::Status& end, absl::string_view role) {
  WorkerFailure out;
  out.status = WorkerErrorForClient(end, role);
  out.where = where;
  out.worker_lost = errors::Is(out.status, Reason::kWorkerLost) ||
                    errors::Is(out.status, Reason::kWorkerUnavailable);
  return out;
}

}  // namespace

absl::Status WorkerErrorForClient(const absl::Status& end, absl::string_view role) {
  if (end.ok()) return end;
  if (IsCatalogued(end)) {
    const std::optional<Reason> reason = ReasonOf(end);
    if (reason && !Info(*reason).client_visible) return errors::Internal();
    if (reason == Reason::kCancelled) return errors::WorkerLost(role);  // we did not cancel it
    if (reason == Reason::kShuttingDown) return errors::WorkerUnavailable(role);
    return end;
  }
  switch (end.code()) {
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

bool IsEcho(const absl::Status& end) {
  if (end.ok()) return false;
  if (!IsCatalogued(end)) return end.code() == absl::StatusCode::kCancelled;
  const std::optional<Reason> reason = ReasonOf(end);
  return reason == Reason::kTicketUnknown || reason == Reason::kCancelled ||
         reason == Reason::kWorkerLost;
}

WorkerFailure JudgeFailure(const std::optional<absl::Status>& decode_end,
                           const std::optional<absl::Status>& encode_end) {
  const bool encode_knows = Failed(encode_end) && !IsEcho(*encode_end);
  if (Failed(decode_end) && !(IsEcho(*decode_end) && encode_knows)) {
    // When both only repeat each other, the vision worker's call is the one that broke by itself.
    if (!Failed(encode_end) || !IsEcho(*decode_end)) {
      return Blame(Where::kLanguage, *decode_end, "language");
    }
    return Blame(Where::kVision, *encode_end, "vision");
  }
  if (!Failed(encode_end)) return {.status = errors::Internal()};
  if (errors::Is(*encode_end, Reason::kPeerUnknown)) {
    return {.status = errors::WorkerUnavailable("language"),
            .where = Where::kLanguage,
            .worker_lost = true,
            .not_known = true};
  }
  // Of a vision worker WORKER_LOST means the language worker.
  const bool between = errors::Is(*encode_end, Reason::kWorkerLost);
  return Blame(between ? Where::kBetween : Where::kVision, *encode_end, "vision");
}

}  // namespace chord::gateway
