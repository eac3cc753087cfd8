#include <gtest/gtest.h>

#include "common/engine/cuda/gemm.h"
#include "tests/common/engine/cuda/device_memory.h"
#include "tests/common/engine/cuda/references.h"

namespace chord::cuda {
namespace {

class ElementwiseTest : public CudaTest {};

TEST_F(ElementwiseTest, EmbedTakesRowsOfTheTableOrOfAnImage) {
  const Dtype dtype = Dtype::kBFloat16;
  const int width = 72;
  const auto table = Random(10 * width, 1, dtype), image = Random(4 * width, 2, dtype);
  const auto device_table = UploadAs(table, dtype), device_image = UploadAs(image, dtype);
  const auto ids = Upload(std::vector<int32_t>{9, 0, 3});
  const auto sources =
      Upload(std::vector<const void*>{nullptr, device_image.get() + 2 * width, nullptr});
  const auto out = Poisoned(3 * width);
  Embed(dtype, device_table.get(), ids.get(), sources.get(), 3, width, out.get(), {});
  std::vector<float> want(table.begin() + 9 * width, table.end());
  want.insert(want.end(), image.begin() + 2 * width, image.begin() + 3 * width);
  want.insert(want.end(), table.begin() + 3 * width, table.begin() + 4 * width);
  EXPECT_EQ(DownloadFrom(out, dtype), want);
}

TEST_F(ElementwiseTest, AddNormAddsThenNormalises) {
  for (const Dtype dtype : kDtypes) {
    for (const int width : {8, 48, 256, 2048, 3584, 8192}) {
      const int rows = 5;
      const auto hidden = Random(int64_t{rows} * width, 1, dtype),
                 delta = Random(int64_t{rows} * width, 2, dtype);
      const auto weight = Random(width, 3, dtype);
      const auto device_delta = UploadAs(delta, dtype), device_weight = UploadAs(weight, dtype);
      for (const bool add : {false, true}) {
        const auto device_hidden = UploadAs(hidden, dtype), out = Poisoned(int64_t{rows} * width);
        AddNorm(dtype, device_hidden.get(), add ? device_delta.get() : nullptr, device_weight.get(),
                1e-6f, rows, width, out.get(), {});
        auto sum = hidden;
        for (size_t i = 0; add && i < sum.size(); ++i)
          sum[i] = Rounded(double{sum[i]} + delta[i], dtype);
        EXPECT_EQ(DownloadFrom(device_hidden, dtype), sum);
        EXPECT_LT(Distance(DownloadFrom(out, dtype), Norm(sum, weight, 1e-6, width, dtype)),
                  Tolerance(dtype));
      }
    }
  }
}

TEST_F(ElementwiseTest, GatherPicksRows) {
  const Dtype dtype = Dtype::kBFloat16;
  const auto x = Random(6 * 40, 1, dtype);
  const auto device_x = UploadAs(x, dtype), out = Poisoned(2 * 40);
  const auto rows = Upload(std::vector<int32_t>{5, 1});
  GatherRows(dtype, device_x.get(), rows.get(), 2, 40, out.get(), {});
  std::vector<float> want(x.begin() + 200, x.end());
  want.insert(want.end(), x.begin() + 40, x.begin() + 80);
  EXPECT_EQ(DownloadFrom(out, dtype), want);
}

TEST_F(ElementwiseTest, SwiGluTakesInterleavedColumns) {
  for (const Dtype dtype : kDtypes) {
    for (const int inner : {8, 72, 1104}) {
      const auto x = Random(7LL * 2 * inner, 1, dtype, 3);
      const auto device_x = UploadAs(x, dtype), out = Poisoned(7LL * inner);
      SwiGlu(dtype, device_x.get(), 7, inner, out.get(), {});
      EXPECT_LT(Distance(DownloadFrom(out, dtype), Gated(x, inner, dtype)), Tolerance(dtype));
    }
  }
}

TEST_F(ElementwiseTest, RotateAndStoreSplitsTheFusedProduct) {
  for (const Dtype dtype : kDtypes) {
    for (const QkvShape shape : {QkvShape{2, 1, 64}, {7, 1, 80}, {16, 2, 128}, {3, 1, 8}}) {
      for (const int tokens : {1, 17}) {
        QkvCase c(dtype, shape, 8, tokens > 8 ? 8 : tokens);
        auto with_bias = Product(c.hidden, c.weight, 8, shape.width());
        const auto products = with_bias;
        for (size_t i = 0; i < with_bias.size(); ++i) with_bias[i] += c.bias[i % c.bias.size()];
        const auto qkv = UploadAs(with_bias, dtype);
        RotateAndStore(dtype, qkv.get(), shape, c.rotary(), c.slots.get(), tokens > 8 ? 8 : tokens,
                       c.kv(), c.q.get(), {});
        c.Expect(products);
      }
    }
  }
}

TEST_F(ElementwiseTest, Int8RowsComeBackWithinAStep) {
  const Dtype dtype = Dtype::kBFloat16;
  const int heads = 2, dim = 80, tokens = 3;
  const auto k = Random(tokens * heads * dim, 1, dtype), v = Random(tokens * heads * dim, 2, dtype);
  const auto device_k = UploadAs(k, dtype), device_v = UploadAs(v, dtype);
  const std::vector<int32_t> slots = {17, -1, 3};
  const auto device_slots = Upload(slots);
  const int64_t rows = 2LL * heads * kPageRows;
  const auto keys = Upload(std::vector<int8_t>(rows * dim, 99)),
             values = Upload(std::vector<int8_t>(rows * dim, 99));
  const auto key_scales = Upload(std::vector<float>(rows, 0)),
             value_scales = Upload(std::vector<float>(rows, 0));
  StoreInt8(dtype, device_k.get(), device_v.get(), device_slots.get(), tokens,
            {keys.get(), values.get(), key_scales.get(), value_scales.get(), heads, dim}, {});
  const auto got = Download(keys);
  const auto scales = Download(key_scales);
  int untouched = 0;
  for (int8_t value : got) untouched += value == 99;
  EXPECT_GE(untouched, (rows - 2 * heads) * dim);
  for (int token = 0; token < tokens; ++token) {
    for (int head = 0; slots[token] >= 0 && head < heads; ++head) {
      const int64_t row =
          (int64_t{slots[token] / kPageRows} * heads + head) * kPageRows + slots[token] % kPageRows;
      for (int d = 0; d < dim; ++d) {
        EXPECT_NEAR(got[row * dim + d] * scales[row], k[(token * heads + head) * dim + d],
                    scales[row] * 0.51f);
      }
    }
  }
}

TEST_F(ElementwiseTest, CopyPageCopiesTheFirstRowsOfEveryHead) {
  const Dtype dtype = Dtype::kBFloat16;
  const int heads = 3, dim = 8, page = heads * kPageRows * dim;
  const auto before = Random(2 * page, 1, dtype);
  const auto keys = UploadAs(before, dtype), values = UploadAs(before, dtype);
  CopyPage(dtype, {keys.get(), values.get(), nullptr, nullptr, heads, dim}, 1, 0, 5, {});
  auto want = before;
  for (int head = 0; head < heads; ++head) {
    std::copy_n(before.begin() + page + head * kPageRows * dim, 5 * dim,
                want.begin() + head * kPageRows * dim);
  }
  EXPECT_EQ(DownloadFrom(keys, dtype), want);
  EXPECT_EQ(DownloadFrom(values, dtype), want);
}

TEST_F(ElementwiseTest, GemmIsTheProductWithBias) {
  for (const Dtype dtype : kDtypes) {
    Gemm gemm(dtype);
    for (const auto& [rows, in, out] : {std::tuple{1, 48, 104}, {17, 256, 768}, {64, 2048, 512}}) {
      const auto x = Random(int64_t{rows} * in, 1, dtype),
                 weight = Random(int64_t{out} * in, 2, dtype, 0.05f);
      const auto bias = Random(out, 3, dtype);
      const auto device_x = UploadAs(x, dtype), device_weight = UploadAs(weight, dtype),
                 device_bias = UploadAs(bias, dtype);
      for (const bool with_bias : {false, true}) {
        const auto y = Poisoned(int64_t{rows} * out);
        Gemm::Args args;
        args.x = device_x.get(), args.x_stride = in, args.weight = device_weight.get();
        args.bias = with_bias ? device_bias.get() : nullptr;
        args.y = y.get(), args.y_stride = out, args.rows = rows, args.in = in, args.out = out;
        gemm.Run(args, nullptr);
        auto want = Product(x, weight, in, out);
        for (size_t i = 0; with_bias && i < want.size(); ++i) want[i] += bias[i % out];
        EXPECT_LT(Distance(DownloadFrom(y, dtype), want), Tolerance(dtype))
            << rows << " " << in << " " << out;
      }
    }
  }
}

}  // namespace
}  // namespace chord::cuda
