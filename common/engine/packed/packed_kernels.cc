#include "common/engine/packed/packed_kernels.h"

namespace chord::engine {

const PackedKernels& ChoosePackedKernels() {
  static const PackedKernels& kernels = []() -> const PackedKernels& {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vnni")) {
      return packed_vnni::kKernels;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("f16c")) {
      return packed_avx2::kKernels;
    }
#endif
    return packed_portable::kKernels;
  }();
  return kernels;
}

}  // namespace chord::engine
