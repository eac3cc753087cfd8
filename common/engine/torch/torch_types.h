// Our types <-> ATen's. Included by .cc files of the engine only.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "common/engine/device.h"

namespace chord::engine {

inline at::ScalarType ToTorch(model::DType dtype) {
  switch (dtype) {
    case model::DType::kBFloat16:
      return at::kBFloat16;
    case model::DType::kFloat16:
      return at::kHalf;
    case model::DType::kInt64:
      return at::kLong;
    default:
      return at::kFloat;
  }
}

inline at::Device ToTorch(const Device& device) {
  return device.kind == Device::Kind::kCuda
             ? at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device.index))
             : at::Device(at::kCPU);
}

}  // namespace chord::engine
