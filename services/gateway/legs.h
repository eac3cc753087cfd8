// One request on its two workers: Decode and Encode opened together under one ticket, joined, and
// ended together.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "chord/internal/v1/decode.pb.h"
#include "chord/internal/v1/encode.pb.h"
#include "common/base/cancel.h"
#include "services/gateway/worker_pool.h"

namespace chord::gateway {

struct LegsInput {
  internal::v1::DecodeRequest decode;
  internal::v1::EncodeHeader encode;
  absl::string_view image;  // must outlive the call
  absl::Time deadline;
  CancelToken cancel;
  std::function<void(absl::string_view)> on_delta;  // may be null
};

struct LegsOutput {
  internal::v1::DecodeDone decode;
  internal::v1::EncodeResponse encode;  // empty when the vision worker went away after its work
};

// Blocks until both calls have ended. Either failing ends the other at once; so do `cancel` and the
// deadline. Errors are fit for the client (see Cause); what the transport said is logged under the
// request id.
absl::StatusOr<LegsOutput> RunLegs(const WorkerPool::Lease& lease, const LegsInput& input);

// What a leg's failure means to the client: errors of the transport become WORKER_LOST by `role`,
// reasons that only our processes understand become INTERNAL. OK stays OK.
absl::Status ForOutside(const absl::Status& leg, absl::string_view role);

// True for failures that only repeat what went wrong on the other leg: the ticket is gone, the
// other worker went away, the call was cancelled.
bool IsEcho(const absl::Status& leg);

}  // namespace chord::gateway
