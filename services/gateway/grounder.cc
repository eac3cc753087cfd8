#include "services/gateway/grounder.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "services/gateway/ground_request.h"

namespace chord::gateway {

absl::StatusOr<GroundResult> Grounder::Ground(const GroundInput& input) {
  const auto slot = admission_.Enter(input.client, static_cast<int64_t>(input.image.size()));
  if (!slot.ok()) return slot.status();
  const absl::Time deadline =
      input.deadline == absl::InfiniteFuture()
          ? input.received_at + options_.default_deadline
          : std::min(input.deadline, input.received_at + options_.max_deadline);
  if (absl::Now() >= deadline) return errors::DeadlineExceeded();
  retries_.Earn();
  GroundRequest request({options_, images_, pool_, metrics_, retries_, executor_}, input, deadline);
  auto result = request.Run();
  if (!result.ok()) return ForClient(result.status());
  admission_.Answered(absl::Now() - input.received_at);
  return result;
}

}  // namespace chord::gateway
