// Products of the vision tower: y = epilogue(x·Wᵀ + b).
//
// On Hopper, one kernel of our own (vision_gemm_sm90.cu): TMA, wgmma and the whole epilogue in one
// pass. A row's result does not depend on the rows beside it, to the bit. Elsewhere cuBLASLt and
// the small kernels of vision_kernels.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/engine/cuda/gemm.h"
#include "common/engine/cuda/vision_kernels.h"

namespace chord::cuda::vision {

enum class Epilogue {
  kBias,          // out = round(acc + bias)
  kBiasResidual,  // out = round(out + round(acc + bias))
  kBiasGelu,      // out = round(gelu(round(acc + bias))), the exact one
  kBiasSwiGlu,    // out [m, n/2]: weights interleaved as SwiGlu of vision_kernels.h wants them
  kBiasRope,      // kBias, then queries and keys rotated and rounded again; Sm90Gemm alone
};
// The head size that kBiasRope is made for.
constexpr int kRopeHeadDim = 80;

struct GemmProblem {
  HalfType type = HalfType::kBf16;
  Epilogue epilogue = Epilogue::kBias;
  const void* x = nullptr;          // [m, k]
  const void* weight = nullptr;     // [n, k]
  const void* bias = nullptr;       // [n], or none
  void* out = nullptr;              // [m, n]; kBiasSwiGlu: [m, n/2]
  const int32_t* target = nullptr;  // row r goes to row target[r] of out; none: to r
  RopeAngles rope;                  // of kBiasRope
  int64_t rotated = 0;              // its columns [0, rotated) are heads to rotate
  int64_t m = 0, n = 0, k = 0;      // k and n multiples of 8; kBiasSwiGlu: n of 16
};

// Device of compute capability 9.0 with a driver that knows TMA.
bool HasSm90Gemm(int device);
cudaError_t Sm90Gemm(const GemmProblem& problem, const Queue& queue);

// The same through cuBLASLt, but for kBiasRope. One thread at a time; throws Error.
class LibraryGemm {
 public:
  explicit LibraryGemm(HalfType type)
      : gemm_(type == HalfType::kBf16 ? Dtype::kBFloat16 : Dtype::kFloat16) {}
  // `scratch`: room for [m, n] values; used by every epilogue but kBiasResidual, and kBias without
  // a target.
  void Run(const GemmProblem& problem, void* scratch, const Queue& queue);

 private:
  Gemm gemm_;
};

}  // namespace chord::cuda::vision
