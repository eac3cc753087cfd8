// absl::Status <-> grpc::Status, with google.rpc.ErrorInfo (and RetryInfo) in the details. The only
// place where the two meet.
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace chord::rpc {

// Only catalogued errors keep their text (errors.h, ForClient); everything else becomes INTERNAL,
// so log `status` first. `request_id` may be empty.
grpc::Status ToGrpc(const absl::Status& status, absl::string_view request_id = "");

// A catalogued status comes back as it was. A failure of the transport (no ErrorInfo) keeps its
// code and is not catalogued: the caller says what it means (errors::WorkerLost, …).
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace chord::rpc
