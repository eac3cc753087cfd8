// Products of many rows through cuBLASLt, with one algorithm per shape.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <map>
#include <tuple>

#include "common/engine/cuda/cuda_api.h"
#include "common/engine/cuda/memory.h"

namespace chord::cuda {

// y [rows, out] = x [rows, in]·weightᵀ (+ bias), accumulated in float32 and rounded once. Leading
// dimensions are in elements. Algorithms come from cuBLASLt's heuristics, without split sums in the
// output's type, and are remembered by shape: pass rows rounded up to few different values. Not
// thread-safe.
class Gemm {
 public:
  explicit Gemm(Dtype dtype);
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  struct Args {
    const void* x = nullptr;
    int64_t x_stride = 0;
    const void* weight = nullptr;  // [out, in] dense
    const void* bias = nullptr;    // null: none
    void* y = nullptr;
    int64_t y_stride = 0;
    int rows = 0, in = 0, out = 0;
    float beta = 0;  // of what y holds
  };
  void Run(const Args& args, cudaStream_t stream);

 private:
  struct Plan;
  const Plan& PlanOf(const Args& args);

  static constexpr int64_t kWorkspaceBytes = 32 << 20;
  const cudaDataType_t type_;
  cublasLtHandle_t handle_ = nullptr;
  DeviceArray<char> workspace_;
  std::map<std::tuple<int, int, int, int64_t, int64_t, bool, bool>, Plan> plans_;
};

}  // namespace chord::cuda
