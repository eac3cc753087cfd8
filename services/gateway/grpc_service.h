// The gRPC door: chord.v1 over the core.
#pragma once

#include <grpcpp/impl/service_type.h>

#include <memory>
#include <vector>

#include "common/base/executor.h"
#include "common/obs/metrics.h"
#include "services/gateway/grounder.h"

namespace chord::gateway {

// The services of chord.v1. Requests run on `executor`; a client that cancels its call cancels its
// request. What this version does not offer answers UNIMPLEMENTED with a reason. All arguments
// outlive the services, which outlive their server.
std::vector<std::unique_ptr<grpc::Service>> GrpcServices(Grounder& grounder, Executor& executor,
                                                         obs::Metrics& metrics);

}  // namespace chord::gateway
