#pragma once

#include <grpcpp/impl/service_type.h>

#include <memory>
#include <string>

#include "common/obs/metrics.h"

namespace chord::gateway {

// The model that this gateway serves.
struct ServedModel {
  std::string name;
  std::string fingerprint;
};

// chord.v1.Admin: ListModels names `model`. Every other method is NOT_IMPLEMENTED in this version,
// whatever its message is.
std::unique_ptr<grpc::Service> AdminService(const ServedModel& model, obs::Metrics& metrics);

}  // namespace chord::gateway
