// One request on its workers: Decode, and Encode when the image's rows are needed, under one
// ticket, joined, and ended together.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "chord/internal/v1/decode.grpc.pb.h"
#include "chord/internal/v1/encode.grpc.pb.h"
#include "common/base/cancel.h"

namespace chord::gateway {

struct VisionTarget {
  internal::v1::Vision::Stub* stub = nullptr;
  std::string worker;  // for the log
};

struct WorkerCallsInput {
  internal::v1::DecodeRequest decode;
  internal::v1::EncodeHeader encode;
  absl::string_view image;  // must outlive the call
  absl::Time deadline;
  CancelToken cancel;
  // Text as it is generated, on a thread of gRPC. May be null.
  std::function<void(absl::string_view)> on_delta;
  // The vision worker for the image's rows, asked for at once, or, when `only_if_needed`, once
  // the language worker has said that it needs rows after all. May block, for a short time. Called
  // at most once, on the thread of CallWorkers.
  std::function<absl::StatusOr<VisionTarget>()> vision;
  bool only_if_needed = false;
};

struct WorkerCallsOutput {
  internal::v1::DecodeDone decode;
  internal::v1::EncodeResponse encode;  // empty when the vision worker went away after its work,
                                        // and when there was none
  bool encoded = false;                 // a vision worker was asked
};

// What went wrong, and where: which worker to avoid, and whether the client has seen words already.
struct WorkerCallsFailure {
  // kBetween: the rows did not get across, though neither worker is known to be gone.
  enum class Where { kNeither, kLanguage, kVision, kBetween } where = Where::kNeither;
  bool worker_lost = false;  // the worker went away or is going: another one may do
  bool produced = false;     // some of the answer was handed to on_delta
  // The vision worker does not know the language worker (kLanguage): it looks names up by itself,
  // and may not have found yet what we have.
  bool not_known = false;
};

// Decode alone or together with Encode. Blocks until the calls have ended. Either failing ends the
// other at once; so do `cancel` and the deadline. A language worker that turns out to have the
// image ends the Encode. Errors are fit for the client (see ForOutside) and described in
// `failure`; what the transport said is logged under the request id.
absl::StatusOr<WorkerCallsOutput> CallWorkers(internal::v1::Language::Stub& language,
                                              const WorkerCallsInput& input,
                                              WorkerCallsFailure& failure);

// What a leg's failure means to the client: errors of the transport become WORKER_LOST by `role`,
// reasons that only our processes understand become INTERNAL. OK stays OK.
absl::Status ForOutside(const absl::Status& leg, absl::string_view role);

// True for failures that only repeat what went wrong on the other leg: the ticket is gone, the
// other worker went away, the call was cancelled.
bool IsEcho(const absl::Status& leg);

}  // namespace chord::gateway
