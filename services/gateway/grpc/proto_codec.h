// Answers and prompts between our plain data and the public protocol.
#pragma once

#include "absl/status/statusor.h"
#include "chord/v1/grounding.pb.h"
#include "services/gateway/ground.h"

namespace chord::gateway {

v1::GroundResponse ToProto(const GroundResult& result);
v1::Object ToProto(const GroundObject& object);

// What a gRPC request asks for. `input.image` points into `request`. Refuses by name what is not
// understood; nothing is passed over in silence.
absl::Status FromProto(const v1::GroundRequest& request, GroundInput& input);

}  // namespace chord::gateway
