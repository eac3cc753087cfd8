// The gRPC endpoint: chord.v1 over the core.
#pragma once

#include <grpcpp/impl/service_type.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/rpc/call.h"
#include "services/gateway/endpoint_deps.h"
#include "services/gateway/grpc/admin.h"

namespace chord::gateway {

// Bytes of a message beyond the image in it.
inline constexpr int64_t kMessageSlackBytes = 1 << 20;

// The services of chord.v1. Requests run on the executor; a client that cancels its call cancels
// its request. What this version does not offer is NOT_IMPLEMENTED. Calls that a client may hold
// open without work are in `calls`: Shutdown ends them when they have none, and Sweep ends uploads
// that stall. `deps` and `calls` outlive the services, which outlive their server.
std::vector<std::unique_ptr<grpc::Service>> GrpcServices(const EndpointDeps& deps,
                                                         const ServedModel& model,
                                                         rpc::CallRegistry& calls);
std::vector<std::string> GrpcServiceNames();

}  // namespace chord::gateway
