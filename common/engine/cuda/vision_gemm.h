// Products of the vision tower: y = epilogue(x·Wᵀ + b).
//
// On Hopper, one kernel of our own (vision_gemm_sm90.cu): TMA, wgmma and the whole epilogue in one
// pass. A row's result does not depend on the rows beside it, to the bit. Elsewhere cublasLt and
// the small kernels of vision_kernels.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/engine/cuda/vision_kernels.h"

namespace chord::engine::cuda {

enum class Epilogue {
  kBias,          // out = round(acc + bias)
  kBiasResidual,  // out = round(out + round(acc + bias))
  kBiasGelu,      // out = round(gelu(round(acc + bias))), the exact one
  kBiasSwiGlu,    // out [m, n/2]: weights interleaved as SwiGlu of vision_kernels.h wants them
};

struct GemmProblem {
  HalfType type = HalfType::kBf16;
  Epilogue epilogue = Epilogue::kBias;
  const void* x = nullptr;       // [m, k]
  const void* weight = nullptr;  // [n, k]
  const void* bias = nullptr;    // [n], or none
  void* out = nullptr;           // [m, n]; kBiasSwiGlu: [m, n/2]
  const int32_t* target = nullptr;  // row r goes to row target[r] of out; none: to r
  int64_t m = 0, n = 0, k = 0;   // k and n multiples of 8; kBiasSwiGlu: n of 16
};

// Device of compute capability 9.0 with a driver that knows TMA.
bool HasSm90Gemm(int device);
cudaError_t Sm90Gemm(const GemmProblem& problem, const Queue& queue);

}  // namespace chord::engine::cuda
