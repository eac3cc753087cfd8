#pragma once

#include <grpcpp/impl/service_type.h>

#include <memory>

#include "common/obs/metrics.h"

namespace chord::gateway {

// chord.v1.Admin: every method is NOT_IMPLEMENTED in this version, whatever its message is.
std::unique_ptr<grpc::Service> AdminService(obs::Metrics& metrics);

}  // namespace chord::gateway
