// AVX-512 with VNNI: one instruction multiplies 16 outputs by 4 inputs and adds into 32 bits.
//
// A unit is 1 … 6 rows by the 64 outputs of a block: 24 sums, 4 registers of weights and the
// broadcast inputs of a row are all a core has. Weights of one unit stream through once, so one row
// runs at the speed of memory; with six rows the multiplications are the limit.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "common/engine/packed/packed_kernels.h"

namespace chord::engine::packed_vnni {
namespace {

#include "common/engine/packed/packed_rounding.inc"
#include "common/engine/packed/packed_unroll.inc"

constexpr int kRegisters = 4;  // of 16 outputs
constexpr int kRows = 6;
// How far ahead of one row's products weights are asked for; the hardware stops at each page.
constexpr int64_t kAhead = 4096;

template <int kBits>
CHORD_INLINE void LoadStep(const uint8_t* step, __m512i* u) {
  if constexpr (kBits == 8) {
    Repeat<kRegisters>(CHORD_EACH(c) { u[c] = _mm512_loadu_si512(step + 64 * c); });
  } else {
    const __m512i low = _mm512_set1_epi8(15);
    Repeat<2>(CHORD_EACH(p) {
      const __m512i both = _mm512_loadu_si512(step + 64 * p);
      u[2 * p] = _mm512_and_si512(both, low);
      u[2 * p + 1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    });
  }
}

// sum += u · a. As assembly: the compiler's own form (GCC 12) copies every sum on its way.
CHORD_INLINE void AddDot(__m512i& sum, __m512i u, __m512i a) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u), "v"(a));
}

CHORD_INLINE __m512i Broadcast(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof(four));
  return _mm512_set1_epi32(four);
}

template <int M, int kBits, bool kScales, bool kZeros>
CHORD_INLINE void Unit(const PackedView& w, int64_t block, const QuantizedRows& x, int64_t row,
                       float* out, int64_t ld_out) {
  constexpr int64_t kStepBytes = kPackedBlock * kPackedStep * kBits / 8;
  const PackedHeader& shape = w.shape;
  const int64_t steps = shape.steps(), groups = shape.groups();
  const int64_t group_steps = shape.group / kPackedStep;
  const uint8_t* weights = w.weights + block * steps * kStepBytes;
  const int8_t* q = x.values + row * x.stride;
  const float* scales = x.scales + row * x.groups;
  const int32_t* sums = x.sums + row * x.groups;
  __m512 total[M * kRegisters];
  Repeat<M * kRegisters>(CHORD_EACH(i) { total[i] = _mm512_setzero_ps(); });
  for (int64_t g = 0; g < groups; ++g) {
    __m512i dot[M * kRegisters];
    Repeat<M>(CHORD_EACH(r) {
      // A fixed zero point is where the sum begins.
      const int32_t begin = kZeros ? 0 : -(1 << (kBits - 1)) * sums[r * x.groups + g];
      Repeat<kRegisters>(CHORD_EACH(c) { dot[r * kRegisters + c] = _mm512_set1_epi32(begin); });
    });
    const int64_t left = steps - g * group_steps;
    const int64_t count = left < group_steps ? left : group_steps;
    const int8_t* in = q + g * group_steps * kPackedStep;
    for (int64_t step = 0; step < count; ++step, weights += kStepBytes, in += kPackedStep) {
      __m512i u[kRegisters];
      LoadStep<kBits>(weights, u);
      if constexpr (M <= 2) {
        Repeat<kStepBytes / 64>(CHORD_EACH(line) {
          _mm_prefetch(reinterpret_cast<const char*>(weights + kAhead + 64 * line), _MM_HINT_T0);
        });
      }
      Repeat<M>(CHORD_EACH(r) {
        const __m512i a = Broadcast(in + r * x.stride);
        Repeat<kRegisters>(CHORD_EACH(c) { AddDot(dot[r * kRegisters + c], u[c], a); });
      });
    }
    const int64_t at = (block * groups + g) * kPackedBlock;
    Repeat<kRegisters>(CHORD_EACH(c) {
      __m512 scale, zero;
      if constexpr (kScales) {
        scale = _mm512_cvtph_ps(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w.group_scales + at + 16 * c)));
      }
      if constexpr (kZeros) {
        zero = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(w.zeros + at + 16 * c))));
      }
      Repeat<M>(CHORD_EACH(r) {
        __m512 value = _mm512_cvtepi32_ps(dot[r * kRegisters + c]);
        if constexpr (kZeros) {
          const auto sum = static_cast<float>(sums[r * x.groups + g]);
          value = _mm512_fnmadd_ps(zero, _mm512_set1_ps(sum), value);
        }
        if constexpr (kScales) value = _mm512_mul_ps(value, scale);
        total[r * kRegisters + c] = _mm512_fmadd_ps(value, _mm512_set1_ps(scales[r * x.groups + g]),
                                                    total[r * kRegisters + c]);
      });
    });
  }
  const int64_t first = block * kPackedBlock;
  Repeat<kRegisters>(CHORD_EACH(c) {
    const int64_t left = shape.outputs - first - 16 * c;
    if (left <= 0) return;
    const auto mask = static_cast<__mmask16>(left >= 16 ? 0xFFFF : (1 << left) - 1);
    const __m512 scale = _mm512_loadu_ps(w.output_scales + first + 16 * c);
    Repeat<M>(CHORD_EACH(r) {
      _mm512_mask_storeu_ps(out + r * ld_out + 16 * c, mask,
                            _mm512_mul_ps(total[r * kRegisters + c], scale));
    });
  });
}

template <int kBits, bool kScales, bool kZeros>
void BlockProducts(const PackedView& w, int64_t block, const QuantizedRows& x, int64_t row,
                   int64_t rows, float* out, int64_t ld_out) {
  for (; rows >= kRows; rows -= kRows, row += kRows, out += kRows * ld_out) {
    Unit<kRows, kBits, kScales, kZeros>(w, block, x, row, out, ld_out);
  }
  switch (rows) {
    case 5:
      return Unit<5, kBits, kScales, kZeros>(w, block, x, row, out, ld_out);
    case 4:
      return Unit<4, kBits, kScales, kZeros>(w, block, x, row, out, ld_out);
    case 3:
      return Unit<3, kBits, kScales, kZeros>(w, block, x, row, out, ld_out);
    case 2:
      return Unit<2, kBits, kScales, kZeros>(w, block, x, row, out, ld_out);
    case 1:
      return Unit<1, kBits, kScales, kZeros>(w, block, x, row, out, ld_out);
    default:
      return;
  }
}

#include "common/engine/packed/packed_dispatch.inc"

}  // namespace

const PackedKernels kKernels = {"avx512-vnni", Quantize, Products, Largest, FitInt4, RoundWeights};

}  // namespace chord::engine::packed_vnni
