// The vision tower's products through cuBLASLt, for devices without the kernel of
// vision_gemm_sm90.cu and for shapes where it is the faster one.
#include "common/engine/cuda/status.h"
#include "common/engine/cuda/vision_gemm.h"

namespace chord::cuda::vision {

void LibraryGemm::Run(const GemmProblem& g, void* scratch, const Queue& queue) {
  // The residual is what the product is added to: one rounding where the reference has two.
  const bool residual = g.epilogue == Epilogue::kBiasResidual;
  const bool direct = residual || (g.epilogue == Epilogue::kBias && g.target == nullptr);
  if (g.epilogue == Epilogue::kBiasRope || (residual && g.target != nullptr)) {
    throw Error(Code::kFailed, "cuBLASLt does not rotate or move rows");
  }
  void* const out = direct ? g.out : scratch;
  Gemm::Args args;
  args.x = g.x;
  args.x_stride = g.k;
  args.weight = g.weight;
  args.bias = g.bias;
  args.y = out;
  args.y_stride = g.n;
  args.rows = static_cast<int>(g.m);
  args.in = static_cast<int>(g.k);
  args.out = static_cast<int>(g.n);
  args.beta = residual ? 1 : 0;
  gemm_.Run(args, queue.stream);
  if (g.epilogue == Epilogue::kBiasGelu) {
    CHORD_CUDA_CHECK(Gelu(g.type, out, g.m * g.n, g.out, queue));
  } else if (g.epilogue == Epilogue::kBiasSwiGlu) {
    CHORD_CUDA_CHECK(SwiGlu(g.type, out, g.m, g.n / 2, g.out, queue));
  } else if (!direct) {
    CHORD_CUDA_CHECK(ScatterRows(out, g.target, g.m, g.n, g.out, queue));
  }
}

}  // namespace chord::cuda::vision
