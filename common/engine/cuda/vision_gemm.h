// Products of the vision tower: y = epilogue(x·Wᵀ + b).
//
// On Hopper, one kernel of our own (vision_gemm_sm90.cu): TMA, wgmma and the whole epilogue in one
// pass. A row's result does not depend on the rows beside it, to the bit. Elsewhere cuBLASLt and
// the small kernels of vision_kernels.h.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <tuple>

#include "common/engine/cuda/memory.cuh"
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

// The same through cuBLASLt. One thread at a time; throws Error.
class PortableGemm {
 public:
  PortableGemm();
  ~PortableGemm();
  PortableGemm(const PortableGemm&) = delete;
  PortableGemm& operator=(const PortableGemm&) = delete;
  // `scratch`: room for [m, n] values; used by every epilogue but kBias without a target.
  void Run(const GemmProblem& problem, void* scratch, const Queue& queue);

 private:
  using Shape = std::tuple<HalfType, bool, int64_t, int64_t, int64_t>;  // has a bias; m, n, k
  const cublasLtMatmulAlgo_t& Choose(const Shape& shape, cublasLtMatmulDesc_t product,
                                     cublasLtMatrixLayout_t weight, cublasLtMatrixLayout_t x,
                                     cublasLtMatrixLayout_t out);

  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
  DeviceArray<std::byte> workspace_;
  std::map<Shape, cublasLtMatmulAlgo_t> chosen_;
};

}  // namespace chord::cuda::vision
