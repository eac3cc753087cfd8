#include <gtest/gtest.h>

#include "tests/common/engine/cuda/device_memory.h"
#include "tests/common/engine/cuda/references.h"

namespace chord::cuda {
namespace {

class FewRowsTest : public CudaTest {};

constexpr int kTokenCounts[] = {1, 2, 3, 5, 8};

TEST_F(FewRowsTest, HeadIsTheNormedProduct) {
  for (const Dtype dtype : kDtypes) {
    for (const auto& [in, out] :
         {std::pair{48, 101}, {256, 4096}, {1000, 24}, {2048, 1533}, {3584, 640}}) {
      const auto weight = Random(int64_t{out} * in, 1, dtype, 0.05f), norm = Random(in, 2, dtype);
      const auto device_weight = UploadAs(weight, dtype), device_norm = UploadAs(norm, dtype);
      const Weight matrix = DescribeWeight(device, device_weight.get(), out, in);
      for (const int tokens : kTokenCounts) {
        if (!FewRowsFit(device, tokens, in)) continue;
        const auto hidden = Random(int64_t{tokens} * in, 3 + tokens, dtype);
        const auto device_hidden = UploadAs(hidden, dtype);
        const int stride = (out + 7) / 8 * 8;
        const auto logits = Poisoned(int64_t{tokens} * stride);
        FewRowsHead(dtype, device, device_hidden.get(), device_norm.get(), 1e-6f, matrix, tokens,
                    stride, logits.get(), {});
        const auto reference = Product(Norm(hidden, norm, 1e-6, in, dtype), weight, in, out);
        EXPECT_LT(Distance(Columns(DownloadFrom(logits, dtype), stride, out), reference),
                  Tolerance(dtype))
            << Name(dtype) << " " << tokens << " x " << out << " x " << in;
      }
    }
  }
}

TEST_F(FewRowsTest, AddAddsTheProductToTheRows) {
  for (const Dtype dtype : kDtypes) {
    for (const auto& [in, out] :
         {std::pair{40, 48}, {768, 256}, {2048, 2048}, {11008, 520}, {18944, 264}}) {
      const auto weight = Random(int64_t{out} * in, 1, dtype, 0.05f);
      const auto device_weight = UploadAs(weight, dtype);
      const Weight matrix = DescribeWeight(device, device_weight.get(), out, in);
      for (const int tokens : kTokenCounts) {
        const auto x = Random(int64_t{tokens} * in, 2 + tokens, dtype);
        const auto before = Random(int64_t{tokens} * out, 9, dtype);
        const auto device_x = UploadAs(x, dtype), hidden = UploadAs(before, dtype);
        FewRowsAdd(dtype, device, device_x.get(), matrix, tokens, hidden.get(), {});
        auto reference = Product(x, weight, in, out);
        for (size_t i = 0; i < reference.size(); ++i) reference[i] += before[i];
        EXPECT_LT(Distance(DownloadFrom(hidden, dtype), reference), Tolerance(dtype))
            << Name(dtype) << " " << tokens << " x " << out << " x " << in;
      }
    }
  }
}

TEST_F(FewRowsTest, SwiGluGatesTheProducts) {
  for (const Dtype dtype : kDtypes) {
    for (const auto& [in, inner] : {std::pair{48, 72}, {256, 768}, {2048, 1024}}) {
      const auto weight = Random(2LL * inner * in, 1, dtype, 0.05f), norm = Random(in, 2, dtype);
      const auto device_weight = UploadAs(weight, dtype), device_norm = UploadAs(norm, dtype);
      const Weight matrix = DescribeWeight(device, device_weight.get(), 2 * inner, in);
      for (const int tokens : kTokenCounts) {
        const auto hidden = Random(int64_t{tokens} * in, 3, dtype);
        const auto device_hidden = UploadAs(hidden, dtype);
        const auto out = Poisoned(int64_t{tokens} * inner);
        FewRowsSwiGlu(dtype, device, device_hidden.get(), device_norm.get(), 1e-6f, matrix, tokens,
                      out.get(), {});
        const auto products = Product(Norm(hidden, norm, 1e-6, in, dtype), weight, in, 2 * inner);
        EXPECT_LT(Distance(DownloadFrom(out, dtype), Gated(products, inner, dtype)),
                  Tolerance(dtype))
            << Name(dtype) << " " << tokens << " x " << inner << " x " << in;
      }
    }
  }
}

// The same row, alone and in company: the same bits.
TEST_F(FewRowsTest, ARowDoesNotDependOnTheOthers) {
  const Dtype dtype = Dtype::kBFloat16;
  const int in = 2048, out = 1024;
  const auto weight = UploadAs(Random(int64_t{out} * in, 1, dtype, 0.05f), dtype);
  const Weight matrix = DescribeWeight(device, weight.get(), out, in);
  const auto norm = UploadAs(Random(in, 2, dtype), dtype);
  const auto hidden = UploadAs(Random(int64_t{8} * in, 3, dtype), dtype);
  const auto all = Poisoned(int64_t{8} * out);
  FewRowsHead(dtype, device, hidden.get(), norm.get(), 1e-6f, matrix, 8, out, all.get(), {});
  const auto together = Download(all);
  for (int token = 0; token < 8; ++token) {
    const auto alone = Poisoned(out);
    FewRowsHead(dtype, device, hidden.get() + int64_t{token} * in, norm.get(), 1e-6f, matrix, 1,
                out, alone.get(), {});
    const std::vector<uint16_t> expected(together.begin() + int64_t{token} * out,
                                         together.begin() + int64_t{token + 1} * out);
    int different = 0;
    const auto got = Download(alone);
    for (int i = 0; i < out; ++i) different += got[i] != expected[i];
    // One token is normalised by the whole block, several by a warp each: the statistics may differ
    // in their last bit.
    EXPECT_LT(different, out / 50) << token;
  }
}

TEST_F(FewRowsTest, QkvIsRotatedAndStored) {
  for (const Dtype dtype : kDtypes) {
    for (const QkvShape shape : {QkvShape{2, 1, 64}, {7, 1, 80}, {16, 2, 128}}) {
      for (const int tokens : kTokenCounts) {
        const int in = 256;
        QkvCase c(dtype, shape, in, tokens);
        const auto weight = UploadAs(c.weight, dtype), bias = UploadAs(c.bias, dtype);
        const auto norm = UploadAs(c.norm, dtype), hidden = UploadAs(c.hidden, dtype);
        const Weight matrix = DescribeWeight(device, weight.get(), shape.width(), in);
        FewQkv args = {};
        args.hidden = hidden.get(), args.norm = norm.get(), args.eps = 1e-6f;
        args.weight = &matrix, args.bias = bias.get(), args.shape = shape;
        args.rotary = c.rotary(), args.slots = c.slots.get(), args.kv = c.kv(), args.q = c.q.get();
        FewRowsQkv(dtype, device, args, tokens, {});
        c.Expect(Product(Norm(c.hidden, c.norm, 1e-6, in, dtype), c.weight, in, shape.width()));
      }
    }
  }
}

}  // namespace
}  // namespace chord::cuda
