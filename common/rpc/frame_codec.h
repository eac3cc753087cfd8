#pragma once

#include "absl/status/statusor.h"
#include "chord/internal/v1/frame.pb.h"
#include "common/image/frame_plan.h"
#include "common/model/checkpoint.h"

namespace chord::rpc {

internal::v1::FramePlan ToProto(const image::FramePlan& plan);
// Range checks only; call image::VerifyFrame on the result. FRAME_MISMATCH.
absl::StatusOr<image::FramePlan> FromProto(const internal::v1::FramePlan& plan);

internal::v1::DType ToProto(model::DType dtype);
model::DType FromProto(internal::v1::DType dtype);  // kOther when unknown

}  // namespace chord::rpc
