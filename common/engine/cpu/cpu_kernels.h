// Inner loops of the CPU backend over raw pointers. One implementation, compiled once per
// instruction set (cpu_kernels.inc) and chosen when the process starts. All arithmetic is float32;
// bf16 appears only as storage, and as the `round` flag of kernels that must round where the
// reference implementation does (spec §4.4, §4.5, §4.9).
#pragma once

#include <cstdint>

namespace chord::engine {

// How keys and values are stored.
enum KvElement { kKvFloat32, kKvBFloat16, kKvInt8, kKvElements };
inline constexpr int64_t kPageKeys = 16;  // keys of a page
// Inner dimension of one product. Longer ones are the sum of such pieces in order: rows of this
// length stay in the first cache while others are multiplied with them.
inline constexpr int64_t kProductDepth = 512;

// At most: rows are padded to what is multiplied at once, k to a register.
constexpr int64_t PanelSize(int64_t rows, int64_t k) { return (rows + 7) * (k + 15); }
// Rows of whole registers on any machine, short enough to be near each other.
constexpr bool InPlace(int64_t k) { return k % 16 == 0 && k <= kProductDepth; }

struct CpuKernels {
  const char* instruction_set;

  // bf16 <-> float32, round to nearest even, NaN stays NaN.
  void (*widen)(const uint16_t* in, float* out, int64_t n);
  void (*narrow)(const float* in, uint16_t* out, int64_t n);
  void (*widen_int8)(const int8_t* in, float* out, int64_t n);

  // out[i·ld_out + j] = Σ_k x[i·ld_x + k] · w[j·ld_w + k], i < m, j < n; with `add` that much more.
  // k <= kProductDepth. An element is summed in one order whatever m and n are: a register of
  // partial sums over k, their sum by halves, what was there before. For few rows of x.
  void (*products_f32)(const float* x, int64_t ld_x, int64_t m, const float* w, int64_t ld_w,
                       int64_t n, int64_t k, bool add, float* out, int64_t ld_out);
  void (*products_bf16)(const float* x, int64_t ld_x, int64_t m, const uint16_t* w, int64_t ld_w,
                        int64_t n, int64_t k, bool add, float* out, int64_t ld_out);
  // The same, to the bit, for many rows: of panels, in which the rows that are multiplied at once
  // lie register by register. A panel of `rows` rows has PanelSize(rows, k) floats.
  void (*pack_x_f32)(const float* in, int64_t ld_in, int64_t rows, int64_t k, float* panel);
  void (*pack_x_bf16)(const uint16_t* in, int64_t ld_in, int64_t rows, int64_t k, float* panel);
  void (*pack_w_f32)(const float* in, int64_t ld_in, int64_t rows, int64_t k, float* panel);
  void (*pack_w_bf16)(const uint16_t* in, int64_t ld_in, int64_t rows, int64_t k, float* panel);
  // ld_x: 0 for a panel; else x lies as it is, rows so far apart, and InPlace(k) must hold.
  void (*panel_products)(const float* x, int64_t ld_x, int64_t m, const float* w, int64_t n,
                         int64_t k, bool add, float* out, int64_t ld_out);

  // Up to kPageKeys rows -> out[d·kPageKeys + j] = in[j·ld_in + d], the other columns 0.
  void (*transpose_page)(const float* in, int64_t ld_in, int64_t rows, int64_t dim, float* out);

  // out[k] += Σ_j p[j] · v[j·ld_v + k], k < width.
  void (*weighted_sum_f32)(const float* p, const float* v, int64_t ld_v, int64_t n, int64_t width,
                           float* out);
  void (*weighted_sum_bf16)(const float* p, const uint16_t* v, int64_t ld_v, int64_t n,
                            int64_t width, float* out);

  // Attention over pages of kPageKeys keys. In each of these an element of the result is one chain
  // of multiply-adds in the order of its index (d, j), whatever the number of rows: a query gets
  // the same bits alone and among others.
  //
  // s[r·ld_s + j] = Σ_d q[r·dim + d] · keys[d·kPageKeys + j], j < kPageKeys: the keys of a page
  // lie transposed. With `scales`: times scales[j].
  void (*page_scores[kKvElements])(const float* q, int64_t rows, int64_t dim, const void* keys,
                                   const float* scales, float* s, int64_t ld_s);
  // out[r·dim + c] = Σ_j p[r·ld_p + j] · v(j)[c], j < n, where v(j) is row j % kPageKeys of
  // values[j / kPageKeys], rows ld_v apart. With `scales`: p times the scale of v(j).
  void (*page_sums[kKvElements])(const float* p, int64_t ld_p, int64_t rows,
                                 const void* const* values, int64_t ld_v,
                                 const float* const* scales, int64_t n, int64_t dim, float* out);
  // q = x / *scale rounded to even, *scale = max |x| / 127. A row that is not finite becomes NaN.
  void (*quantize)(const float* x, int64_t n, int8_t* q, float* scale);

  // One block of an online softmax over scores s[0, n) (n >= 1): s becomes exp(s·scale − max),
  // *max and *sum go on from the blocks before (start: −inf, 0). Returns what the output
  // accumulated until now must be multiplied by.
  float (*softmax_block)(float* s, int64_t n, float scale, float* max, float* sum);
  void (*scale)(float* x, int64_t n, float factor);

  // out = w · x · rsqrt(mean(x²) + eps). round: after the normalisation and after the weight.
  void (*rms_norm)(const float* x, const float* w, int64_t n, float eps, bool round, float* out);
  // g = silu(g) · u. round: g, u, silu and product.
  void (*silu_mul)(float* g, const float* u, int64_t n, bool round);
  // x = 0.5 x (1 + erf(x / √2)).
  void (*gelu)(float* x, int64_t n);
  // Rotates `heads` consecutive heads of 2·half values each: pairs (j, j + half) by the angle whose
  // cosine and sine are c[j], s[j]. round: both products and their sum.
  void (*rotate)(float* x, int heads, int64_t half, const float* c, const float* s, bool round);
  // h += y. round: y and the sum.
  void (*add)(float* h, const float* y, int64_t n, bool round);
};

namespace baseline {
extern const CpuKernels kKernels;
}
namespace avx2 {
extern const CpuKernels kKernels;
}
namespace avx512 {
extern const CpuKernels kKernels;
}

// The widest this processor runs.
const CpuKernels& Kernels();

}  // namespace chord::engine
