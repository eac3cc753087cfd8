#include "common/engine/cpu/cpu_kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/common/engine/tiny_model.h"

namespace chord::engine {
namespace {

// Lengths around every register width.
constexpr int64_t kLengths[] = {1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 64, 100, 257};

std::vector<const CpuKernels*> Available() {
  std::vector<const CpuKernels*> kernels = {&baseline::kKernels};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    kernels.push_back(&avx2::kKernels);
  }
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    kernels.push_back(&avx512::kKernels);
  }
#endif
  return kernels;
}

std::vector<uint16_t> Bf16(const std::vector<float>& values) {
  std::vector<uint16_t> out;
  for (float value : values) out.push_back(ToBf16(value));
  return out;
}

float FromBf16(uint16_t half) {
  const uint32_t bits = uint32_t{half} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

class CpuKernelsTest : public testing::TestWithParam<const CpuKernels*> {
 protected:
  const CpuKernels& k = *GetParam();
};

TEST_P(CpuKernelsTest, RoundsToNearestEvenAndKeepsNan) {
  std::vector<float> in = {1.0f,    1.00390625f, 1.01171875f, -1.00390625f, 0.0f, -0.0f,
                           3.4e38f, INFINITY,    -INFINITY,   1e-40f,       0.1f};
  std::vector<uint16_t> expected;
  for (float value : in) expected.push_back(ToBf16(value));
  uint32_t nan_bits = 0x7FFFFFFF;  // carries into the sign when rounded as a number
  float nan;
  std::memcpy(&nan, &nan_bits, sizeof(nan));
  in.push_back(nan);
  while (in.size() < 40) in.push_back(0.3f), expected.push_back(ToBf16(0.3f));
  std::vector<uint16_t> out(in.size());
  k.narrow(in.data(), out.data(), in.size());
  EXPECT_TRUE(std::isnan(FromBf16(out[11])));
  expected.insert(expected.begin() + 11, out[11]);
  expected.resize(out.size());
  EXPECT_EQ(out, expected);
  std::vector<float> back(out.size());
  k.widen(out.data(), back.data(), out.size());
  for (size_t i = 0; i < out.size(); ++i) {
    if (i != 11) {
      EXPECT_EQ(back[i], FromBf16(out[i])) << i;
    }
  }
}

TEST_P(CpuKernelsTest, MultipliesRowsTheSameForAnyNumberOfThem) {
  for (int64_t depth : kLengths) {
    const int64_t rows = 29, n = 11, ld_w = depth + 3;
    const std::vector<float> x = RandomFloats(rows * depth, 1), w = RandomFloats(n * ld_w, 2);
    const std::vector<uint16_t> w16 = Bf16(w);
    std::vector<float> all(rows * n);
    k.products_f32(x.data(), depth, rows, w.data(), ld_w, n, depth, false, all.data(), n);
    const std::vector<uint16_t> x16 = Bf16(x);
    for (const bool packed_from_bf16 : {false, true}) {
      std::vector<float> panel_x(PanelSize(rows, depth)), panel_w(PanelSize(n, depth));
      if (packed_from_bf16) {
        k.pack_x_bf16(x16.data(), depth, rows, depth, panel_x.data());
        k.pack_w_bf16(w16.data(), ld_w, n, depth, panel_w.data());
      } else {
        k.pack_x_f32(x.data(), depth, rows, depth, panel_x.data());
        k.pack_w_f32(w.data(), ld_w, n, depth, panel_w.data());
      }
      std::vector<float> panels(rows * (n + 1), 0.5f), expected(rows * (n + 1), 0.5f);
      for (const bool add : {false, true}) {
        k.panel_products(panel_x.data(), 0, rows, panel_w.data(), n, depth, add, panels.data(),
                         n + 1);
        for (int i = 0; i < rows; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            float& value = expected[i * (n + 1) + j];
            value = add ? value + all[i * n + j] : all[i * n + j];
          }
        }
        EXPECT_EQ(panels, expected);
        if (add || !InPlace(depth)) continue;
        std::vector<float> in_place(rows * (n + 1), 0.5f);
        k.panel_products(x.data(), depth, rows, panel_w.data(), n, depth, false, in_place.data(),
                         n + 1);
        EXPECT_EQ(in_place, expected);
      }
    }
    for (int i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0, size = 0;
        for (int64_t d = 0; d < depth; ++d) {
          sum += double{x[i * depth + d]} * w[j * ld_w + d];
          size += std::abs(double{x[i * depth + d]} * w[j * ld_w + d]);
        }
        EXPECT_NEAR(all[i * n + j], sum, 1e-6 * size);
      }
    }
    for (int m = 1; m <= rows; ++m) {
      std::vector<float> some(m * n), some16(m * n);
      k.products_f32(x.data(), depth, m, w.data(), ld_w, n, depth, false, some.data(), n);
      k.products_bf16(x.data(), depth, m, w16.data(), ld_w, n, depth, false, some16.data(), n);
      const std::vector<float> expected(all.begin(), all.begin() + m * n);
      EXPECT_EQ(some, expected) << m << " of depth " << depth;
      EXPECT_EQ(some16, expected);  // the weights are bf16 values
      // A column alone, on top of what is there.
      for (float& value : some) value = 0.5f;
      k.products_f32(x.data(), depth, m, &w[3 * ld_w], ld_w, 1, depth, true, &some[3], n);
      for (int i = 0; i < m; ++i) {
        EXPECT_EQ(some[i * n + 3], 0.5f + expected[i * n + 3]);
        EXPECT_EQ(some[i * n + 4], 0.5f);
      }
    }
  }
}

TEST_P(CpuKernelsTest, TransposesPages) {
  for (int64_t dim : {1, 4, 10, 48}) {
    for (int64_t rows : {1, 4, 7, 16}) {
      const std::vector<float> in = RandomFloats(16 * (dim + 3), 1);
      std::vector<float> out(16 * dim, -1), expected(16 * dim, 0);
      for (int64_t j = 0; j < rows; ++j) {
        for (int64_t d = 0; d < dim; ++d) expected[d * 16 + j] = in[j * (dim + 3) + d];
      }
      k.transpose_page(in.data(), dim + 3, rows, dim, out.data());
      EXPECT_EQ(out, expected);
    }
  }
}

TEST_P(CpuKernelsTest, AddsWeightedRows) {
  for (int64_t width : kLengths) {
    const int64_t n = 9, ld = width + 5;
    const std::vector<float> p = RandomFloats(n, 3), v = RandomFloats(n * ld, 4);
    const std::vector<uint16_t> v16 = Bf16(v);
    std::vector<float> out(width, 0.5f), out16(width, 0.5f);
    k.weighted_sum_f32(p.data(), v.data(), ld, n, width, out.data());
    k.weighted_sum_bf16(p.data(), v16.data(), ld, n, width, out16.data());
    for (int64_t c = 0; c < width; ++c) {
      double sum = 0.5;
      for (int64_t j = 0; j < n; ++j) sum += double{p[j]} * v[j * ld + c];
      EXPECT_NEAR(out[c], sum, 1e-5);
      EXPECT_NEAR(out16[c], sum, 1e-5);
    }
  }
}

TEST_P(CpuKernelsTest, ScoresPagesOfKeysTheSameForAnyNumberOfRows) {
  for (int64_t dim : {8, 20, 48, 128}) {
    const int64_t rows = 23;
    const std::vector<float> q = RandomFloats(rows * dim, 1), keys = RandomFloats(16 * dim, 2);
    const std::vector<uint16_t> keys16 = Bf16(keys);
    std::vector<int8_t> keys8;
    for (float key : keys) keys8.push_back(static_cast<int8_t>(std::lround(key * 20)));
    const std::vector<float> scales = RandomFloats(16, 3);
    const void* pages[] = {keys.data(), keys16.data(), keys8.data()};
    for (int element = 0; element < kKvElements; ++element) {
      std::vector<float> all(rows * 20, -1), some(rows * 20, -1);
      k.page_scores[element](q.data(), rows, dim, pages[element],
                             element == kKvInt8 ? scales.data() : nullptr, all.data(), 20);
      for (int64_t first = 0, count = 1; first < rows; first += count, count = count % 7 + 1) {
        k.page_scores[element](q.data() + first * dim, std::min(count, rows - first), dim,
                               pages[element], element == kKvInt8 ? scales.data() : nullptr,
                               some.data() + first * 20, 20);
      }
      EXPECT_EQ(all, some);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t j = 0; j < 16; ++j) {
          double sum = 0;
          for (int64_t d = 0; d < dim; ++d) {
            sum += double{q[r * dim + d]} *
                   (element == kKvInt8 ? double{scales[j]} * keys8[d * 16 + j] : keys[d * 16 + j]);
          }
          EXPECT_NEAR(all[r * 20 + j], sum, element == kKvInt8 ? 1e-3 : 2e-5);
        }
      }
    }
  }
}

TEST_P(CpuKernelsTest, SumsPagesOfValuesTheSameForAnyNumberOfRows) {
  for (int64_t dim : {8, 20, 48, 80, 128}) {
    for (int64_t n : {1, 16, 43}) {
      const int64_t rows = 11, ld = dim + 3;
      const std::vector<float> p = RandomFloats(rows * 48, 1), values = RandomFloats(48 * ld, 2);
      const std::vector<uint16_t> values16 = Bf16(values);
      std::vector<int8_t> values8;
      for (float value : values) values8.push_back(static_cast<int8_t>(std::lround(value * 20)));
      const std::vector<float> scale = RandomFloats(48, 3);
      const float* scales[] = {&scale[32], &scale[0], &scale[16]};
      const int64_t order[] = {1, 2, 0};  // of the pages
      for (int element = 0; element < kKvElements; ++element) {
        const void* pages[3];
        for (int i = 0; i < 3; ++i) {
          const int64_t at = order[i] * 16 * ld;
          pages[i] = element == kKvFloat32    ? static_cast<const void*>(&values[at])
                     : element == kKvBFloat16 ? static_cast<const void*>(&values16[at])
                                              : &values8[at];
        }
        std::vector<float> all(rows * dim, -1), some(rows * dim, -1);
        const float* const* used = element == kKvInt8 ? scales : nullptr;
        k.page_sums[element](p.data(), 48, rows, pages, ld, used, n, dim, all.data());
        for (int64_t first = 0, count = 1; first < rows; first += count, count = count % 5 + 1) {
          k.page_sums[element](p.data() + first * 48, 48, std::min(count, rows - first), pages, ld,
                               used, n, dim, some.data() + first * dim);
        }
        EXPECT_EQ(all, some);
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < dim; ++c) {
            double sum = 0;
            for (int64_t j = 0; j < n; ++j) {
              const int64_t at = (order[j / 16] * 16 + j % 16) * ld + c;
              sum +=
                  double{p[r * 48 + j]} *
                  (element == kKvInt8 ? double{scales[j / 16][j % 16]} * values8[at] : values[at]);
            }
            EXPECT_NEAR(all[r * dim + c], sum, element == kKvInt8 ? 1e-3 : 2e-5);
          }
        }
      }
    }
  }
}

TEST_P(CpuKernelsTest, QuantizesToTheNearestStepAndShowsWhatIsNotFinite) {
  for (int64_t n : kLengths) {
    const std::vector<float> x = RandomFloats(n, 1, 3);
    std::vector<int8_t> q(n);
    float scale = 0, top = 0;
    k.quantize(x.data(), n, q.data(), &scale);
    for (float value : x) top = std::max(top, std::abs(value));
    EXPECT_FLOAT_EQ(scale, top / 127);
    for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(q[i] * scale, x[i], scale * 0.5001f);
  }
  float scale = 1;
  int8_t q[3];
  k.quantize(std::vector<float>{0, 0, 0}.data(), 3, q, &scale);
  EXPECT_EQ(q[1] * scale, 0);
  k.quantize(std::vector<float>{1e-41f, 0, 0}.data(), 3, q, &scale);
  EXPECT_EQ(q[0] * scale, 0);
  for (float bad : {NAN, INFINITY, -INFINITY}) {
    k.quantize(std::vector<float>{1, bad, 0}.data(), 3, q, &scale);
    EXPECT_TRUE(std::isnan(q[0] * scale));
  }
}

TEST_P(CpuKernelsTest, JoinsSoftmaxBlocks) {
  for (int64_t n : kLengths) {
    // The second block holds the larger scores, so the first must be scaled down.
    std::vector<float> scores = RandomFloats(2 * n, 5, 4);
    for (int64_t i = 0; i < n; ++i) scores[n + i] += 10;
    const std::vector<float> raw = scores;
    const float scale = 0.25f;
    float max = -INFINITY, sum = 0;
    EXPECT_EQ(k.softmax_block(scores.data(), n, scale, &max, &sum), 0);
    const float rescale = k.softmax_block(scores.data() + n, n, scale, &max, &sum);
    EXPECT_LT(rescale, 1);
    double top = -INFINITY, total = 0;
    for (float s : raw) top = std::max(top, double{s} * scale);
    for (float s : raw) total += std::exp(double{s} * scale - top);
    for (int64_t i = 0; i < 2 * n; ++i) {
      const double expected = std::exp(double{raw[i]} * scale - top) / total;
      const double got = double{scores[i]} * (i < n ? rescale : 1) / sum;
      EXPECT_NEAR(got, expected, 1e-6 * expected + 1e-12);
    }
  }
}

TEST_P(CpuKernelsTest, NormalizesInTheReferenceOrder) {
  for (int64_t n : kLengths) {
    const std::vector<float> x = RandomFloats(n, 6, 3), w = RandomFloats(n, 7);
    std::vector<float> out(n), rounded(n);
    k.rms_norm(x.data(), w.data(), n, 1e-5f, false, out.data());
    k.rms_norm(x.data(), w.data(), n, 1e-5f, true, rounded.data());
    double squares = 0;
    for (float value : x) squares += double{value} * value;
    const double factor = 1 / std::sqrt(squares / n + 1e-5);
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_NEAR(out[i], x[i] * factor * w[i], 1e-6 * std::abs(out[i]));
      // Two roundings: float32 may fall on the other side of a tie of the first.
      const double y = x[i] * factor;
      const float one = FromBf16(ToBf16(static_cast<float>(y)));
      const double expected = FromBf16(ToBf16(one * w[i]));
      EXPECT_NEAR(rounded[i], expected, std::abs(expected) / 100);
      EXPECT_EQ(rounded[i], FromBf16(ToBf16(rounded[i])));
    }
  }
}

TEST_P(CpuKernelsTest, RoundsTwiceWhenNormalizing) {
  // x/|x| = 1 in every place; the weight's product must see the rounded 1/√(1 + eps) factor.
  const std::vector<float> x(40, 1.0f), w(40, FromBf16(ToBf16(1.3f)));
  std::vector<float> out(40);
  const float eps = 0.0117f;  // factor 0.99420: bf16 0.99609; product 1.3008·0.99609 = 1.2957
  k.rms_norm(x.data(), w.data(), 40, eps, true, out.data());
  const float y = FromBf16(ToBf16(1 / std::sqrt(1 + eps)));
  for (float value : out) EXPECT_EQ(value, FromBf16(ToBf16(y * w[0])));
}

TEST_P(CpuKernelsTest, GatesBySilu) {
  for (int64_t n : kLengths) {
    const std::vector<float> g = RandomFloats(n, 8, 6), u = RandomFloats(n, 9);
    std::vector<float> out = g, rounded = g;
    k.silu_mul(out.data(), u.data(), n, false);
    k.silu_mul(rounded.data(), u.data(), n, true);
    for (int64_t i = 0; i < n; ++i) {
      const double silu = g[i] / (1 + std::exp(-double{g[i]}));
      EXPECT_NEAR(out[i], silu * u[i], 5e-7 * std::abs(silu * u[i]) + 1e-30);
      const float half = FromBf16(ToBf16(static_cast<float>(silu)));
      const float expected = FromBf16(ToBf16(half * u[i]));
      EXPECT_NEAR(rounded[i], expected, std::abs(expected) / 100);
    }
  }
  float extreme[] = {200, -200, 0, -88, 88}, one[] = {1, 1, 1, 1, 1};
  k.silu_mul(extreme, one, 5, false);
  EXPECT_EQ(extreme[0], 200);
  EXPECT_NEAR(extreme[1], 0, 1e-30);
  EXPECT_EQ(extreme[2], 0);
}

TEST_P(CpuKernelsTest, ComputesTheExactGelu) {
  std::vector<float> x;
  for (float v = -6; v <= 6; v += 0.0137f) x.push_back(v);
  std::vector<float> out = x;
  k.gelu(out.data(), out.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = 0.5 * x[i] * (1 + std::erf(x[i] / std::sqrt(2.0)));
    EXPECT_NEAR(out[i], expected, 4e-7 * std::max(1.0, std::abs(double{x[i]}))) << x[i];
  }
}

TEST_P(CpuKernelsTest, RotatesPairsHalfAHeadApart) {
  for (int64_t half : {1, 4, 6, 8, 20, 40, 64}) {
    const int heads = 3;
    const std::vector<float> x = RandomFloats(heads * 2 * half, 10);
    std::vector<float> c, s;
    for (int64_t j = 0; j < half; ++j) {
      c.push_back(std::cos(0.1f * j));
      s.push_back(std::sin(0.1f * j));
    }
    std::vector<float> out = x;
    k.rotate(out.data(), heads, half, c.data(), s.data(), false);
    for (int h = 0; h < heads; ++h) {
      for (int64_t j = 0; j < half; ++j) {
        const float a = x[h * 2 * half + j], b = x[h * 2 * half + half + j];
        EXPECT_NEAR(out[h * 2 * half + j], a * c[j] - b * s[j], 1e-6);
        EXPECT_NEAR(out[h * 2 * half + half + j], b * c[j] + a * s[j], 1e-6);
      }
    }
    std::vector<float> rounded = x;
    k.rotate(rounded.data(), heads, half, c.data(), s.data(), true);
    const auto round = [](float v) { return FromBf16(ToBf16(v)); };
    for (int64_t j = 0; j < half; ++j) {
      EXPECT_EQ(rounded[j], round(round(x[j] * c[j]) - round(x[half + j] * s[j])));
      EXPECT_EQ(rounded[half + j], round(round(x[half + j] * c[j]) + round(x[j] * s[j])));
    }
  }
}

TEST_P(CpuKernelsTest, AddsWithTheRoundingsOfAResidual) {
  const std::vector<float> h = RandomFloats(37, 11), y = RandomFloats(37, 12);
  std::vector<float> plain = h, rounded = h, fine = y;
  for (float& value : fine) value *= 1.001f;  // not bf16 values
  k.add(plain.data(), fine.data(), 37, false);
  k.add(rounded.data(), fine.data(), 37, true);
  for (int i = 0; i < 37; ++i) {
    EXPECT_EQ(plain[i], h[i] + fine[i]);
    EXPECT_EQ(rounded[i], FromBf16(ToBf16(h[i] + FromBf16(ToBf16(fine[i])))));
  }
}

INSTANTIATE_TEST_SUITE_P(AllInstructionSets, CpuKernelsTest, testing::ValuesIn(Available()),
                         [](const auto& made) { return made.param->instruction_set; });

}  // namespace
}  // namespace chord::engine
