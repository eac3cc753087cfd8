#define CHORD_ISA avx2
#define CHORD_LANES 8
#include "common/engine/cpu/cpu_kernels.inc"
