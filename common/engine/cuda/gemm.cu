#include <memory>

#include "common/engine/cuda/gemm.h"

namespace chord::cuda {

struct Gemm::Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weight = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};

  ~Plan() {
    cublasLtMatrixLayoutDestroy(y);
    cublasLtMatrixLayoutDestroy(x);
    cublasLtMatrixLayoutDestroy(weight);
    cublasLtMatmulDescDestroy(operation);
  }
};

Gemm::Gemm(Dtype dtype)
    : type_(dtype == Dtype::kBFloat16 ? CUDA_R_16BF : CUDA_R_16F), workspace_(kWorkspaceBytes) {
  CHORD_CUDA_CHECK(cublasLtCreate(&handle_));
}

Gemm::~Gemm() {
  plans_.clear();
  cublasLtDestroy(handle_);
}

// cuBLAS counts columns first: yᵀ [out, rows] = (weightᵀ)ᵀ·xᵀ.
const Gemm::Plan& Gemm::PlanOf(const Args& args) {
  const auto key = std::make_tuple(args.rows, args.in, args.out, args.x_stride, args.y_stride,
                                   args.bias != nullptr, args.beta != 0);
  const auto found = plans_.find(key);
  if (found != plans_.end()) return found->second;
  Plan& plan = plans_[key];
  try {
    const cublasOperation_t transposed = CUBLAS_OP_T;
    CHORD_CUDA_CHECK(cublasLtMatmulDescCreate(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    CHORD_CUDA_CHECK(cublasLtMatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                                    &transposed, sizeof(transposed)));
    if (args.bias != nullptr) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      CHORD_CUDA_CHECK(cublasLtMatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                      &epilogue, sizeof(epilogue)));
      CHORD_CUDA_CHECK(cublasLtMatmulDescSetAttribute(
          plan.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type_, sizeof(type_)));
      CHORD_CUDA_CHECK(cublasLtMatmulDescSetAttribute(
          plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &args.bias, sizeof(args.bias)));
    }
    CHORD_CUDA_CHECK(cublasLtMatrixLayoutCreate(&plan.weight, type_, args.in, args.out, args.in));
    CHORD_CUDA_CHECK(cublasLtMatrixLayoutCreate(&plan.x, type_, args.in, args.rows, args.x_stride));
    CHORD_CUDA_CHECK(
        cublasLtMatrixLayoutCreate(&plan.y, type_, args.out, args.rows, args.y_stride));

    cublasLtMatmulPreference_t raw = nullptr;
    CHORD_CUDA_CHECK(cublasLtMatmulPreferenceCreate(&raw));
    const std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>,
                          cublasStatus_t (*)(cublasLtMatmulPreference_t)>
        preference(raw, cublasLtMatmulPreferenceDestroy);
    const size_t workspace = kWorkspaceBytes;
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    CHORD_CUDA_CHECK(cublasLtMatmulPreferenceSetAttribute(
        raw, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace)));
    CHORD_CUDA_CHECK(cublasLtMatmulPreferenceSetAttribute(
        raw, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof(reductions)));
    cublasLtMatmulHeuristicResult_t result = {};
    int results = 0;
    CHORD_CUDA_CHECK(cublasLtMatmulAlgoGetHeuristic(handle_, plan.operation, plan.weight, plan.x,
                                                    plan.y, plan.y, raw, 1, &result, &results));
    if (results == 0) {
      throw Error(Code::kUnsupported, "cuBLASLt has no algorithm for a product of %d x %d x %d",
                  args.rows, args.out, args.in);
    }
    plan.algorithm = result.algo;
  } catch (...) {
    plans_.erase(key);
    throw;
  }
  return plan;
}

void Gemm::Run(const Args& args, cudaStream_t stream) {
  const Plan& plan = PlanOf(args);
  if (args.bias != nullptr) {
    CHORD_CUDA_CHECK(cublasLtMatmulDescSetAttribute(
        plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &args.bias, sizeof(args.bias)));
  }
  const float alpha = 1;
  CHORD_CUDA_CHECK(cublasLtMatmul(handle_, plan.operation, &alpha, args.weight, plan.weight, args.x,
                                  plan.x, &args.beta, args.y, plan.y, args.y, plan.y,
                                  &plan.algorithm, workspace_.get(), workspace_.bytes(), stream));
}

}  // namespace chord::cuda
