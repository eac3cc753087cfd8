#include "common/rpc/deadline.h"

#include <chrono>

#include "absl/time/clock.h"

namespace chord::rpc {

absl::Time DeadlineOf(const grpc::ServerContextBase& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

void SetDeadline(grpc::ClientContext& context, absl::Time deadline, absl::Duration margin) {
  if (deadline == absl::InfiniteFuture()) return;
  context.set_deadline(absl::ToChronoTime(deadline - margin));
}

}  // namespace chord::rpc
