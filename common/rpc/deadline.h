// Deadlines cross our processes as the remaining duration; C++ gRPC does not hand them on by
// itself.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/server_context.h>

#include "absl/time/time.h"

namespace chord::rpc {

// The caller's deadline on this machine's clock; InfiniteFuture when it set none.
absl::Time DeadlineOf(const grpc::ServerContextBase& context);

// Sets the outgoing deadline. Downstream gets `margin` less than we have, so that its refusal still
// reaches us before our own caller gives up.
void SetDeadline(grpc::ClientContext& context, absl::Time deadline,
                 absl::Duration margin = absl::ZeroDuration());

}  // namespace chord::rpc
