#define CHORD_ISA avx512
#define CHORD_LANES 16
#include "common/engine/cpu/cpu_kernels.inc"
