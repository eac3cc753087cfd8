// AVX2 without VNNI: two multiplications and an addition in 16 bits, widened by another one.
//
// Pairs must fit into 16 bits: 4-bit weights do (15 · 127 · 2), 8-bit ones are taken as u − 128 and
// multiplied by size, the sign moved to the other factor (128 · 127 · 2 < 2^15).
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "common/engine/packed/packed_kernels.h"

namespace chord::engine::packed_avx2 {
namespace {

#include "common/engine/packed/packed_rounding.inc"
#include "common/engine/packed/packed_unroll.inc"

constexpr int kRegisters = 4;  // of 8 outputs: half a block
constexpr int kRows = 2;

// 32 outputs of a step: registers of outputs 0–7, 8–15, 16–23 and 24–31 of the half. 8 bits: as
// u − 128.
template <int kBits>
CHORD_INLINE void LoadStep(const uint8_t* step, __m256i* u) {
  const auto load = [&](int at) __attribute__((always_inline)) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(step + at));
  };
  if constexpr (kBits == 8) {
    const __m256i flip = _mm256_set1_epi8(-128);
    Repeat<kRegisters>(CHORD_EACH(c) { u[c] = _mm256_xor_si256(load(32 * c), flip); });
  } else {
    const __m256i low = _mm256_set1_epi8(15);
    Repeat<2>(CHORD_EACH(p) {
      const __m256i both = load(32 * p);
      u[p] = _mm256_and_si256(both, low);
      u[p + 2] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
    });
  }
}

template <int kBits>
CHORD_INLINE __m256i Dot(__m256i sum, __m256i u, __m256i a) {
  const __m256i pairs = kBits == 8
                            ? _mm256_maddubs_epi16(_mm256_abs_epi8(u), _mm256_sign_epi8(a, u))
                            : _mm256_maddubs_epi16(u, a);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// Half a block, M rows.
template <int M, int kBits, bool kScales, bool kZeros>
CHORD_INLINE void Unit(const PackedView& w, int64_t block, int64_t half, const QuantizedRows& x,
                       int64_t row, float* out, int64_t ld_out) {
  constexpr int64_t kStepBytes = kPackedBlock * kPackedStep * kBits / 8;
  constexpr int kBase = kBits == 8 ? 128 : 0;  // what LoadStep took off
  const PackedHeader& shape = w.shape;
  const int64_t steps = shape.steps(), groups = shape.groups();
  const int64_t group_steps = shape.group / kPackedStep;
  const uint8_t* weights = w.weights + block * steps * kStepBytes + half * kStepBytes / 2;
  const int8_t* q = x.values + row * x.stride;
  __m256 total[M * kRegisters];
  Repeat<M * kRegisters>(CHORD_EACH(i) { total[i] = _mm256_setzero_ps(); });
  for (int64_t g = 0; g < groups; ++g) {
    const auto sum_of = [&](int64_t r) { return x.sums[(row + r) * x.groups + g]; };
    __m256i dot[M * kRegisters];
    Repeat<M>(CHORD_EACH(r) {
      const int32_t begin = kZeros ? 0 : -((1 << (kBits - 1)) - kBase) * sum_of(r);
      Repeat<kRegisters>(CHORD_EACH(c) { dot[r * kRegisters + c] = _mm256_set1_epi32(begin); });
    });
    const int64_t left = steps - g * group_steps;
    const int64_t count = left < group_steps ? left : group_steps;
    const int8_t* in = q + g * group_steps * kPackedStep;
    for (int64_t step = 0; step < count; ++step, weights += kStepBytes, in += kPackedStep) {
      __m256i u[kRegisters];
      LoadStep<kBits>(weights, u);
      Repeat<M>(CHORD_EACH(r) {
        int32_t four;
        std::memcpy(&four, in + r * x.stride, sizeof(four));
        const __m256i a = _mm256_set1_epi32(four);
        Repeat<kRegisters>(CHORD_EACH(c) {
          dot[r * kRegisters + c] = Dot<kBits>(dot[r * kRegisters + c], u[c], a);
        });
      });
    }
    const int64_t at = (block * groups + g) * kPackedBlock + half * kPackedBlock / 2;
    Repeat<kRegisters>(CHORD_EACH(c) {
      __m256 scale, zero;
      if constexpr (kScales) {
        scale = _mm256_cvtph_ps(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(w.group_scales + at + 8 * c)));
      }
      if constexpr (kZeros) {
        const __m128i bytes =
            _mm_loadl_epi64(reinterpret_cast<const __m128i*>(w.zeros + at + 8 * c));
        zero = _mm256_cvtepi32_ps(
            _mm256_sub_epi32(_mm256_cvtepu8_epi32(bytes), _mm256_set1_epi32(kBase)));
      }
      Repeat<M>(CHORD_EACH(r) {
        __m256 value = _mm256_cvtepi32_ps(dot[r * kRegisters + c]);
        if constexpr (kZeros) {
          value = _mm256_fnmadd_ps(zero, _mm256_set1_ps(static_cast<float>(sum_of(r))), value);
        }
        if constexpr (kScales) value = _mm256_mul_ps(value, scale);
        total[r * kRegisters + c] = _mm256_fmadd_ps(
            value, _mm256_set1_ps(x.scales[(row + r) * x.groups + g]), total[r * kRegisters + c]);
      });
    });
  }
  const int64_t first = block * kPackedBlock + half * kPackedBlock / 2;
  out += half * kPackedBlock / 2;
  Repeat<kRegisters>(CHORD_EACH(c) {
    const __m256 scale = _mm256_loadu_ps(w.output_scales + first + 8 * c);
    const int64_t left = shape.outputs - first - 8 * c;
    Repeat<M>(CHORD_EACH(r) {
      float values[8];
      _mm256_storeu_ps(values, _mm256_mul_ps(total[r * kRegisters + c], scale));
      if (left > 0) {
        std::memcpy(out + r * ld_out + 8 * c, values, sizeof(float) * (left < 8 ? left : 8));
      }
    });
  });
}

template <int kBits, bool kScales, bool kZeros>
void BlockProducts(const PackedView& w, int64_t block, const QuantizedRows& x, int64_t row,
                   int64_t rows, float* out, int64_t ld_out) {
  for (; rows >= kRows; rows -= kRows, row += kRows, out += kRows * ld_out) {
    Unit<kRows, kBits, kScales, kZeros>(w, block, 0, x, row, out, ld_out);
    Unit<kRows, kBits, kScales, kZeros>(w, block, 1, x, row, out, ld_out);
  }
  if (rows == 1) {
    Unit<1, kBits, kScales, kZeros>(w, block, 0, x, row, out, ld_out);
    Unit<1, kBits, kScales, kZeros>(w, block, 1, x, row, out, ld_out);
  }
}

#include "common/engine/packed/packed_dispatch.inc"

}  // namespace

const PackedKernels kKernels = {"avx2", Quantize, Products, Largest, FitInt4, RoundWeights};

}  // namespace chord::engine::packed_avx2
