// The vision tower's products through cuBLASLt, for devices without the kernel of
// vision_gemm_sm90.cu.
#include <memory>
#include <type_traits>

#include "common/engine/cuda/status.cuh"
#include "common/engine/cuda/vision_gemm.h"

namespace chord::cuda::vision {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;
constexpr size_t kMostShapes = 256;  // remembered; a service sees as many as image sizes

struct Destroy {
  void operator()(cublasLtMatmulDesc_t x) const { cublasLtMatmulDescDestroy(x); }
  void operator()(cublasLtMatrixLayout_t x) const { cublasLtMatrixLayoutDestroy(x); }
};
using Product = std::unique_ptr<std::remove_pointer_t<cublasLtMatmulDesc_t>, Destroy>;
using Layout = std::unique_ptr<std::remove_pointer_t<cublasLtMatrixLayout_t>, Destroy>;

// Row-major [rows, cols] is column-major [cols, rows].
Layout MakeLayout(cudaDataType_t type, int64_t rows, int64_t cols) {
  cublasLtMatrixLayout_t layout = nullptr;
  CHORD_CUDA_CHECK(cublasLtMatrixLayoutCreate(&layout, type, cols, rows, cols));
  return Layout(layout);
}

template <typename T>
void Set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  CHORD_CUDA_CHECK(cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof(value)));
}

}  // namespace

PortableGemm::PortableGemm() : workspace_(kWorkspaceBytes) {
  CHORD_CUDA_CHECK(cublasLtCreate(&handle_));
  CHORD_CUDA_CHECK(cublasLtMatmulPreferenceCreate(&preference_));
  CHORD_CUDA_CHECK(cublasLtMatmulPreferenceSetAttribute(
      preference_, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
      sizeof(kWorkspaceBytes)));
}

PortableGemm::~PortableGemm() {
  if (preference_ != nullptr) cublasLtMatmulPreferenceDestroy(preference_);
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

const cublasLtMatmulAlgo_t& PortableGemm::Choose(const Shape& shape, cublasLtMatmulDesc_t product,
                                                 cublasLtMatrixLayout_t weight,
                                                 cublasLtMatrixLayout_t x,
                                                 cublasLtMatrixLayout_t out) {
  if (chosen_.size() >= kMostShapes) chosen_.clear();
  const auto [at, fresh] = chosen_.try_emplace(shape);
  if (fresh) {
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_, product, weight, x, out, out, preference_, 1, &result, &found);
    if (status != CUBLAS_STATUS_SUCCESS || found < 1) {
      chosen_.erase(at);
      throw Error(Code::kFailed, "cuBLASLt has no product for this shape: %s",
                  cublasLtGetStatusString(status));
    }
    at->second = result.algo;
  }
  return at->second;
}

void PortableGemm::Run(const GemmProblem& g, void* scratch, const Queue& queue) {
  const cudaDataType_t type = g.type == HalfType::kBf16 ? CUDA_R_16BF : CUDA_R_16F;
  // The residual comes as the matrix that the product is added to: one rounding instead of two.
  const bool residual = g.epilogue == Epilogue::kBiasResidual && g.target == nullptr;
  const bool direct = residual || (g.epilogue == Epilogue::kBias && g.target == nullptr);
  void* const out = direct ? g.out : scratch;
  cublasLtMatmulDesc_t raw = nullptr;
  CHORD_CUDA_CHECK(cublasLtMatmulDescCreate(&raw, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const Product product(raw);
  Set(raw, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (g.bias != nullptr) {
    Set(raw, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    Set(raw, CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
  }
  const Layout weight = MakeLayout(type, g.n, g.k), x = MakeLayout(type, g.m, g.k),
               result = MakeLayout(type, g.m, g.n);
  const cublasLtMatmulAlgo_t& algorithm = Choose({g.type, g.bias != nullptr, g.m, g.n, g.k}, raw,
                                                 weight.get(), x.get(), result.get());
  const float one = 1, keep = residual ? 1 : 0;
  CHORD_CUDA_CHECK(cublasLtMatmul(handle_, raw, &one, g.weight, weight.get(), g.x, x.get(), &keep,
                                  out, result.get(), out, result.get(), &algorithm,
                                  workspace_.get(), kWorkspaceBytes, queue.stream));
  switch (g.epilogue) {
    case Epilogue::kBias:
      break;
    case Epilogue::kBiasRope:
      throw Error(Code::kFailed, "cuBLASLt does not rotate");
    case Epilogue::kBiasResidual:
      if (!residual) throw Error(Code::kFailed, "a residual with moved rows");
      return;
    case Epilogue::kBiasGelu:
      CHORD_CUDA_CHECK(Gelu(g.type, out, g.m * g.n, g.out, queue));
      return;
    case Epilogue::kBiasSwiGlu:
      CHORD_CUDA_CHECK(SwiGlu(g.type, out, g.m, g.n / 2, g.out, queue));
      return;
  }
  if (g.target != nullptr) CHORD_CUDA_CHECK(ScatterRows(out, g.target, g.m, g.n, g.out, queue));
}

}  // namespace chord::cuda::vision
