#define CHORD_ISA avx512
#define CHORD_LANES 16
#include "common/engine/cpu_kernels.inc"
