#include "common/engine/backend.h"

#include "common/engine/cpu/cpu_backend.h"
#include "common/engine/torch/torch_backend.h"

namespace chord::engine {

std::unique_ptr<Backend> Backend::Create(const Device& device, model::DType dtype) {
  if (device.kind == Device::Kind::kCpu) return MakeCpuBackend(dtype);
  return MakeTorchBackend(device, dtype);
}

}  // namespace chord::engine
