#include "common/rpc/frame_codec.h"

#include "common/base/errors.h"
#include "common/base/limits.h"

namespace chord::rpc {

internal::v1::FramePlan ToProto(const image::FramePlan& plan) {
  internal::v1::FramePlan out;
  out.set_stored_width(plan.stored.width);
  out.set_stored_height(plan.stored.height);
  out.set_orientation(plan.orientation);
  out.set_resized_width(plan.resized.width);
  out.set_resized_height(plan.resized.height);
  out.set_grid_h(plan.grid.h);
  out.set_grid_w(plan.grid.w);
  out.set_tokens(plan.tokens);
  return out;
}

absl::StatusOr<image::FramePlan> FromProto(const internal::v1::FramePlan& plan) {
  auto side_ok = [](int32_t side) { return side >= 1 && side <= limits::kMaxImageSide; };
  if (!side_ok(plan.stored_width()) || !side_ok(plan.stored_height()) ||
      !side_ok(plan.resized_width()) || !side_ok(plan.resized_height()) ||
      !side_ok(plan.grid_h()) || !side_ok(plan.grid_w()) || plan.orientation() < 1 ||
      plan.orientation() > 8 || plan.tokens() < 1) {
    return errors::FrameMismatch();
  }
  image::FramePlan out;
  out.stored = {plan.stored_width(), plan.stored_height()};
  out.orientation = plan.orientation();
  out.upright =
      plan.orientation() >= 5 ? image::Size{out.stored.height, out.stored.width} : out.stored;
  out.resized = {plan.resized_width(), plan.resized_height()};
  out.grid = {plan.grid_h(), plan.grid_w()};
  out.tokens = plan.tokens();
  return out;
}

internal::v1::DType ToProto(model::DType dtype) {
  switch (dtype) {
    case model::DType::kFloat32:
      return internal::v1::DTYPE_FLOAT32;
    case model::DType::kBFloat16:
      return internal::v1::DTYPE_BFLOAT16;
    case model::DType::kFloat16:
      return internal::v1::DTYPE_FLOAT16;
    default:
      return internal::v1::DTYPE_UNSPECIFIED;
  }
}

model::DType FromProto(internal::v1::DType dtype) {
  switch (dtype) {
    case internal::v1::DTYPE_FLOAT32:
      return model::DType::kFloat32;
    case internal::v1::DTYPE_BFLOAT16:
      return model::DType::kBFloat16;
    case internal::v1::DTYPE_FLOAT16:
      return model::DType::kFloat16;
    default:
      return model::DType::kOther;
  }
}

}  // namespace chord::rpc
