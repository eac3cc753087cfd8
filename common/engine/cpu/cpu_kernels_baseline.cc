#define CHORD_ISA baseline
#define CHORD_LANES 4
#include "common/engine/cpu/cpu_kernels.inc"
