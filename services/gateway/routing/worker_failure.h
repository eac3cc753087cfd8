// What the ends of a request's worker calls mean: to the client, and for a retry. Pure.
#pragma once

#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace chord::gateway {

// What the end of a worker call means to the client: errors of the transport become WORKER_LOST by
// `role` ("vision", "language"), reasons that only our processes understand become INTERNAL. OK
// stays OK.
absl::Status WorkerErrorForClient(const absl::Status& end, absl::string_view role);

// True for ends that only repeat what went wrong in the other call: its ticket is unknown, the
// other worker was lost, the call was cancelled.
bool IsEcho(const absl::Status& end);

// What went wrong, and where: which worker a retry avoids.
struct WorkerFailure {
  // kBetween: the embeddings did not get across, though neither worker is known to be lost.
  enum class Where { kNeither, kLanguage, kVision, kBetween };
  absl::Status status;  // for the client
  Where where = Where::kNeither;
  bool worker_lost = false;  // another worker may do
  // The vision worker does not know the language worker (kLanguage): it looks names up by itself,
  // and may not have found yet what we have.
  bool not_known = false;
};

// The verdict on a request whose Decode did not return an answer. nullopt: the call was not made,
// had not ended, or was ended by us. At least one of them has failed, else the verdict is INTERNAL.
WorkerFailure JudgeFailure(const std::optional<absl::Status>& decode_end,
                           const std::optional<absl::Status>& encode_end);

}  // namespace chord::gateway
