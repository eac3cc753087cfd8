#include "common/engine/cpu/cpu_kernels.h"

namespace chord::engine {

const CpuKernels& Kernels() {
  static const CpuKernels& kernels = []() -> const CpuKernels& {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      return avx512::kKernels;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::kKernels;
#endif
    return baseline::kKernels;
  }();
  return kernels;
}

}  // namespace chord::engine
