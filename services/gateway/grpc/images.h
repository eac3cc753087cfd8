// chord.v1.Images over the image store.
#pragma once

#include <grpcpp/impl/service_type.h>

#include <memory>

#include "common/rpc/call.h"
#include "services/gateway/endpoint_deps.h"

namespace chord::gateway {

// `registry` ends uploads that stall.
std::unique_ptr<grpc::Service> ImagesService(const EndpointDeps& deps, rpc::CallRegistry& registry);

}  // namespace chord::gateway
