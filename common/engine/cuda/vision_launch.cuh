// One way to launch a kernel, with or without programmatic overlap.
#pragma once

#include <cuda_runtime.h>

#include "common/engine/cuda/vision_kernels.h"

namespace chord::cuda::vision {

template <typename... Parameters, typename... Arguments>
cudaError_t Launch(const Queue& queue, dim3 grid, int threads, size_t shared_bytes,
                   void (*kernel)(Parameters...), Arguments&&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = queue.stream;
  config.attrs = &attribute;
  config.numAttrs = queue.overlap ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

}  // namespace chord::cuda::vision
