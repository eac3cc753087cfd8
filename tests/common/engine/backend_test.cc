// Our kernels and tiles against ATen's operators on the same matrices.
#include "common/engine/backend.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "common/engine/cpu/cpu_backend.h"
#include "common/engine/torch/torch_backend.h"
#include "tests/common/engine/tiny_model.h"

namespace chord::engine {
namespace {

using model::DType;

// The same operation on both backends.
struct Pair {
  explicit Pair(DType compute)
      : dtype(compute), ours(MakeCpuBackend(dtype)), reference(MakeTorchBackend(Device{}, dtype)) {}

  // `slack`: of the tolerance.
  template <typename Fn>
  void Both(const Fn& fn, double slack = 1) {
    a = Run(*ours, fn);
    b = Run(*reference, fn);
    ASSERT_EQ(a.size(), b.size());
    // float32 differs by the order of sums; bf16 by what that does at a rounding or two, also of
    // the terms of a sum that comes out near zero.
    const double relative = slack * (dtype == DType::kFloat32 ? 2e-5 : 2.0 / 128);
    double size = 0;
    for (float value : b) size += double{value} * value;
    const double typical = std::sqrt(size / static_cast<double>(b.size()));
    for (size_t i = 0; i < a.size(); ++i) {
      ASSERT_NEAR(a[i], b[i], relative * (std::abs(b[i]) + typical)) << i;
    }
  }
  template <typename Fn>
  std::vector<float> Run(Backend& backend, const Fn& fn) {
    const Mat out = fn(backend);
    std::vector<float> values(out.rows * out.cols);
    backend.DownloadFloat(out, values.data());
    return values;
  }

  DType dtype;
  std::unique_ptr<Backend> ours, reference;
  std::vector<float> a, b;
};

Mat Random(Backend& backend, int64_t rows, int64_t cols, int seed, float scale = 1) {
  const Mat mat = backend.Allocate(rows, cols);
  backend.Upload(RandomFloats(rows * cols, seed, scale).data(), cols, {}, mat);
  return mat;
}

// A weight as a checkpoint holds it; `stored` need not be what is computed in.
struct Stored {
  Stored(DType dtype, int64_t rows, int64_t cols, int seed)
      : bytes(Encode(dtype, RandomFloats(rows * cols, seed, 1 / std::sqrt(float(cols))))) {
    view.dtype = dtype;
    view.shape = {rows, cols};
    view.data = bytes.data();
    view.bytes = static_cast<int64_t>(bytes.size());
  }
  std::vector<std::byte> bytes;
  model::TensorView view;
};

struct Types {
  DType compute, stored;
};

class BackendTest : public testing::TestWithParam<Types> {
 protected:
  BackendTest() : pair(GetParam().compute) {}
  Pair pair;
};

TEST_P(BackendTest, MultipliesByAnyShapeOfWeight) {
  const struct {
    int64_t m, k, n;
  } shapes[] = {{1, 64, 96},  {1, 100, 700},   {3, 100, 33},   {8, 257, 70},
                {9, 77, 130}, {300, 192, 200}, {70, 2100, 64}, {520, 40, 300}};
  for (const auto& [m, k, n] : shapes) {
    SCOPED_TRACE(testing::Message() << m << " x " << k << " x " << n);
    const Stored w(GetParam().stored, n, k, 1), u(GetParam().stored, n, k, 2);
    const Stored bias(GetParam().stored, 1, n, 3);
    for (bool with_bias : {false, true}) {
      const auto layer = [&](Backend& backend, const Stored& weight) {
        LinearLayer l;
        l.weight = backend.AdoptMatrix(weight.view, n, k);
        if (with_bias) l.bias = backend.AdoptVector(bias.view, n);
        return l;
      };
      pair.Both([&](Backend& backend) {
        const Mat x = Random(backend, m, k, 4), out = backend.Allocate(m, n);
        backend.Linear(x, layer(backend, w), out);
        return out;
      });
      pair.Both([&](Backend& backend) {
        const Mat x = Random(backend, m, k, 4), out = Random(backend, m, n, 5);
        backend.LinearAdd(x, layer(backend, w), out);
        return out;
      });
      pair.Both([&](Backend& backend) {
        const Mat x = Random(backend, m, k, 4), out = backend.Allocate(m, n);
        backend.GatedLinear(x, layer(backend, w), layer(backend, u), out);
        return out;
      });
    }
  }
}

TEST_P(BackendTest, MultipliesSeveralLayersAtOnceIntoStridedPlaces) {
  const Stored w(GetParam().stored, 50, 36, 1), u(GetParam().stored, 30, 36, 2);
  for (int64_t m : {1, 5, 40}) {
    pair.Both([&](Backend& backend) {
      const Mat x = Random(backend, m, 40, 4).Cols(4, 36);
      const Mat out = backend.Allocate(m, 90);
      const LinearLayer first{backend.AdoptMatrix(w.view, 50, 36), {}};
      const LinearLayer second{backend.AdoptMatrix(u.view, 30, 36), {}};
      const Backend::LinearJob jobs[] = {{&first, out.Cols(3, 50)}, {&second, out.Cols(60, 30)}};
      backend.Linear(x, jobs, /*add=*/false);
      return out;
    });
  }
}

TEST_P(BackendTest, NormalizesAndActivates) {
  const Stored w(GetParam().stored, 1, 75, 1);
  pair.Both([&](Backend& backend) {
    const Mat x = Random(backend, 90, 75, 2, 3), out = backend.Allocate(90, 75);
    backend.RmsNorm(x, backend.AdoptVector(w.view, 75), 1e-6f, out);
    return out;
  });
  pair.Both([&](Backend& backend) {
    const Mat x = Random(backend, 33, 75, 3, 2);
    backend.Gelu(x);
    return x;
  });
}

TEST_P(BackendTest, Rotates) {
  for (bool round_each : {false, true}) {
    pair.Both([&](Backend& backend) {
      const Mat x = Random(backend, 50, 3 * 20 + 7, 2).Cols(0, 60);
      const Mat cos = backend.Allocate(50, 10, DType::kFloat32);
      const Mat sin = backend.Allocate(50, 10, DType::kFloat32);
      backend.Upload(RandomFloats(500, 3).data(), 10, {}, cos);
      backend.Upload(RandomFloats(500, 4).data(), 10, {}, sin);
      backend.Rotate(x, 3, cos, sin, round_each);
      return x;
    });
  }
}

TEST_P(BackendTest, AttendsWithinSegments) {
  const std::vector<Segment> segments = {{0, 4}, {4, 64}, {68, 64}, {132, 130}, {262, 700}};
  for (int64_t dim : {8, 20, 80}) {
    pair.Both([&](Backend& backend) {
      const Mat qkv = Random(backend, 962, 3 * 3 * dim, 2), out = backend.Allocate(962, 3 * dim);
      backend.SegmentAttention(qkv, 3, segments, out);
      return out;
    });
  }
}

// ATen's side rounds what it reads from int8 to bf16 first, ours does not.
double Slack(DType dtype, KvType type) {
  return dtype == DType::kBFloat16 && type == KvType::kInt8 ? 4 : 1;
}

// Random keys and values of `rows` rows in all of its pages, first row first.
KvCache RandomCache(Backend& backend, int64_t rows, const AttentionHeads& heads, KvType type) {
  const int64_t width = heads.kv * heads.dim;
  const KvCache cache = backend.AllocateKv((rows + kKvPageTokens - 1) / kKvPageTokens, heads, type);
  std::vector<int32_t> all(rows);
  std::iota(all.begin(), all.end(), 0);
  backend.StoreKv(Random(backend, rows, width, 3), Random(backend, rows, width, 4), all, cache);
  return cache;
}

std::vector<int32_t> Pages(int64_t count, int seed) {
  std::vector<int32_t> pages(count);
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), std::mt19937(seed));
  return pages;
}

TEST_P(BackendTest, AttendsToThePagesOfASequenceCausally) {
  // One run of every kind: a first prefill, single tokens near and far, a chunk that goes on,
  // several tokens at a far end, a long prefill.
  const std::vector<int32_t> pages = Pages(137, 1);
  const std::vector<QueryRun> runs = {{0, 5, 0, pages},     {5, 1, 640, pages},
                                      {6, 130, 70, pages},  {136, 1, 0, pages},
                                      {137, 600, 0, pages}, {737, 3, 2'000, pages}};
  for (const AttentionHeads heads :
       {AttentionHeads{6, 2, 16}, {7, 1, 8}, {4, 4, 128}, {80, 1, 20}, {2, 1, 48}}) {
    for (const KvType type : {KvType::kModel, KvType::kInt8}) {
      SCOPED_TRACE(testing::Message() << heads.query << " heads of " << heads.dim);
      pair.Both(
          [&](Backend& backend) {
            const KvCache cache = RandomCache(backend, 2'200, heads, type);
            const Mat q = Random(backend, 740, heads.query * heads.dim, 2);
            const Mat out = backend.Allocate(740, heads.query * heads.dim);
            backend.CachedAttention(q, cache, runs, out);
            return out;
          },
          Slack(pair.dtype, type));
    }
  }
}

TEST_P(BackendTest, CopiesTheFirstRowsOfAPage) {
  const AttentionHeads heads{2, 2, 20};
  for (const KvType type : {KvType::kModel, KvType::kInt8}) {
    for (const int copied : {1, 7, 16}) {
      const auto attend = [&](bool copy) {
        return [&heads, type, copied, copy](Backend& backend) {
          const KvCache cache = RandomCache(backend, 48, heads, type);
          if (copy) backend.CopyKvPage(cache, 2, 0, copied);
          // Rows 0 .. 15 of page 0, or rows of page 2 as far as they were copied and page 0's
          // after.
          const Mat q = Random(backend, 16, 40, 2), out = backend.Allocate(16, 40);
          const std::vector<int32_t> pages = {copy ? 0 : 2};
          const std::vector<QueryRun> runs = {{0, copied, 0, pages}};
          backend.CachedAttention(q, cache, runs, out);
          return out.Rows(0, copied);
        };
      };
      pair.Both(attend(true));
      const std::vector<float> ours = pair.a, theirs = pair.b;
      pair.Both(attend(false));
      EXPECT_EQ(ours, pair.a);
      EXPECT_EQ(theirs, pair.b);
      // The rest of the page is its own.
      const auto rest = [&](bool copy) {
        return [&heads, type, copied, copy](Backend& backend) {
          const KvCache cache = RandomCache(backend, 48, heads, type);
          if (copy) backend.CopyKvPage(cache, 2, 0, copied);
          const Mat row = Random(backend, 1, 40, 9), out = backend.Allocate(16, 40);
          for (int32_t i = 0; i < copied; ++i) backend.StoreKv(row, row, {i}, cache);
          const std::vector<int32_t> pages = {0};
          const std::vector<QueryRun> runs = {{0, 16, 0, pages}};
          backend.CachedAttention(Random(backend, 16, 40, 2), cache, runs, out);
          return out;
        };
      };
      pair.Both(rest(true));
      const std::vector<float> kept = pair.a;
      pair.Both(rest(false));
      EXPECT_EQ(kept, pair.a);
    }
  }
}

TEST_P(BackendTest, AttendsToInt8CloseToTheModelsType) {
  const AttentionHeads heads{6, 2, 64};
  const std::vector<int32_t> pages = Pages(40, 1);
  const std::vector<QueryRun> runs = {{0, 500, 0, pages}, {500, 1, 600, pages}};
  std::vector<float> results[2];
  for (const KvType type : {KvType::kModel, KvType::kInt8}) {
    pair.Both(
        [&](Backend& backend) {
          const KvCache cache = RandomCache(backend, 640, heads, type);
          const Mat q = Random(backend, 501, 384, 2), out = backend.Allocate(501, 384);
          backend.CachedAttention(q, cache, runs, out);
          return out;
        },
        Slack(pair.dtype, type));
    results[type == KvType::kInt8] = pair.a;
  }
  // A value is off by at most half a step of max/127; sums of many errors by less.
  EXPECT_LT(Distance(results[1], results[0]), 0.02);
  EXPECT_GT(Distance(results[1], results[0]), 1e-4);
}

TEST_P(BackendTest, MovesRows) {
  const Stored table(GetParam().stored, 20, 9, 1);
  pair.Both([&](Backend& backend) {
    const Mat out = Random(backend, 4, 9, 2);
    backend.GatherRows(backend.AdoptMatrix(table.view, 20, 9), {19, -1, 0, 19}, out);
    return out;
  });
  pair.Both([&](Backend& backend) {
    const Mat out = backend.Allocate(3, 9);
    const std::vector<float> host = RandomFloats(5 * 9, 4);
    backend.Upload(host.data(), 9, {4, 0, 3}, out);
    backend.UploadFlat(host.data(), 10, 5, out);
    return out;
  });
  for (Backend* backend : {pair.ours.get(), pair.reference.get()}) {
    const Mat src = Random(*backend, 3, 9, 5);
    std::vector<std::byte> rows(3 * 9 * model::SizeOf(src.dtype));
    backend->DownloadRows(src, {2, 0, 1}, rows.data());
    const std::vector<std::byte> expected = Encode(src.dtype, RandomFloats(3 * 9, 5));
    const auto row = static_cast<int64_t>(rows.size()) / 3;
    EXPECT_TRUE(std::equal(rows.begin() + 2 * row, rows.end(), expected.begin()));
    EXPECT_TRUE(std::equal(rows.begin(), rows.begin() + row, expected.begin() + row));
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, BackendTest,
                         testing::Values(Types{DType::kFloat32, DType::kFloat32},
                                         Types{DType::kFloat32, DType::kBFloat16},
                                         Types{DType::kBFloat16, DType::kBFloat16},
                                         Types{DType::kBFloat16, DType::kFloat32}),
                         [](const auto& made) {
                           return std::string(made.param.compute == DType::kFloat32 ? "Fp32"
                                                                                    : "Bf16") +
                                  "From" + (made.param.stored == DType::kFloat32 ? "Fp32" : "Bf16");
                         });

TEST(CpuBackend, UsesMappedWeightsWhereTheyLie) {
  const Stored bf16(DType::kBFloat16, 4, 8, 1), fp32(DType::kFloat32, 4, 8, 1);
  const auto exact = MakeCpuBackend(DType::kFloat32), rounded = MakeCpuBackend(DType::kBFloat16);
  EXPECT_EQ(exact->AdoptMatrix(bf16.view, 4, 8).data, bf16.bytes.data());
  EXPECT_EQ(exact->AdoptMatrix(fp32.view, 4, 8).data, fp32.bytes.data());
  EXPECT_EQ(rounded->AdoptMatrix(bf16.view, 4, 8).data, bf16.bytes.data());
  EXPECT_NE(rounded->AdoptMatrix(fp32.view, 4, 8).data, fp32.bytes.data());
  // A tensor of an old file may begin anywhere.
  std::vector<std::byte> shifted(1, std::byte{0});
  shifted.insert(shifted.end(), fp32.bytes.begin(), fp32.bytes.end());
  model::TensorView odd = fp32.view;
  odd.data = shifted.data() + 1;
  const Mat copy = exact->AdoptMatrix(odd, 4, 8);
  EXPECT_NE(copy.data, odd.data);
  std::vector<float> values(32);
  exact->DownloadFloat(copy, values.data());
  EXPECT_EQ(Encode(DType::kFloat32, values), fp32.bytes);
}

TEST(CpuBackend, WidensHalfPrecisionWeights) {
  // 1, -2, 65504, 2^-24 (the smallest subnormal), 1/3 rounded.
  const uint16_t halves[] = {0x3C00, 0xC000, 0x7BFF, 0x0001, 0x3555};
  model::TensorView view;
  view.dtype = DType::kFloat16;
  view.data = reinterpret_cast<const std::byte*>(halves);
  view.bytes = sizeof(halves);
  const auto backend = MakeCpuBackend(DType::kFloat32);
  std::vector<float> values(5);
  backend->DownloadFloat(backend->AdoptMatrix(view, 1, 5), values.data());
  EXPECT_EQ(values, (std::vector<float>{1, -2, 65'504, 0x1p-24f, 0x1.554p-2f}));
}

}  // namespace
}  // namespace chord::engine
