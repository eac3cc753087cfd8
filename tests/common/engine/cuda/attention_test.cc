#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/common/engine/cuda/device_memory.h"

namespace chord::cuda {
namespace {

struct Sequence {
  int start = 0;  // KV rows before the queries
  int count = 0;  // query rows
};

// Sequences with random keys, values and queries in shuffled pages.
class Case {
 public:
  Case(Dtype dtype, int heads, int kv_heads, int dim, bool int8, std::vector<Sequence> sequences)
      : dtype_(dtype),
        heads_(heads),
        kv_heads_(kv_heads),
        dim_(dim),
        int8_(int8),
        sequences_(std::move(sequences)) {
    int pages = 1;  // page 0 belongs to nothing, and holds what would be seen
    for (const Sequence& s : sequences_) pages += (s.start + s.count + kPageRows - 1) / kPageRows;
    std::vector<int32_t> order(pages - 1);
    std::iota(order.begin(), order.end(), 1);
    std::mt19937 random(7);
    std::shuffle(order.begin(), order.end(), random);
    for (const Sequence& s : sequences_) {
      items_.push_back({tokens_, s.count, s.start, static_cast<int32_t>(table_.size()), s.start});
      for (int i = 0; i < (s.start + s.count + kPageRows - 1) / kPageRows; ++i) {
        table_.push_back(order[table_.size()]);
      }
      tokens_ += s.count;
    }
    const int64_t values = int64_t{pages} * kv_heads * kPageRows * dim;
    q_ = Random(int64_t{tokens_} * heads * dim, 1, dtype);
    k_ = Random(values, 2, dtype), v_ = Random(values, 3, dtype);
    // Rows that no sequence has written yet may hold anything.
    if (!int8) {
      std::fill_n(k_.begin(), kv_heads * kPageRows * dim, NAN);
      std::fill_n(v_.begin(), kv_heads * kPageRows * dim, NAN);
    }
    if (int8) Quantize(&k_, &k8_, &k_scales_), Quantize(&v_, &v8_, &v_scales_);
  }

  // By the shape that is to be tested, or the one the plan would take.
  std::vector<float> Run(AttentionShape shape, int splits) {
    std::vector<AttentionTile> tiles;
    const int group = heads_ / kv_heads_;
    for (int i = 0; i < static_cast<int>(items_.size()); ++i) {
      for (int row = 0; row < items_[i].count * group; row += AttentionTileRows(shape))
        tiles.push_back({i, row});
    }
    tiles.push_back({-1, 0});
    const int count = static_cast<int>(tiles.size());
    const auto q = UploadAs(q_, dtype_);
    const auto k = UploadAs(k_, dtype_), v = UploadAs(v_, dtype_);
    const auto k8 = Upload(k8_), v8 = Upload(v8_);
    const auto k_scales = Upload(k_scales_), v_scales = Upload(v_scales_);
    const auto items = Upload(items_);
    const auto device_tiles = Upload(tiles);
    const auto table = Upload(table_);
    const auto out = Poisoned(static_cast<int64_t>(q_.size()));
    const DeviceArray<float> partial(
        std::max<int64_t>(1, AttentionPartialFloats(shape, count, kv_heads_, splits, dim_)));
    const auto counters = Upload(std::vector<unsigned>(count * kv_heads_, 0));
    Attention args = {};
    args.q = q.get(), args.out = out.get(), args.heads = heads_;
    args.kv.heads = kv_heads_, args.kv.dim = dim_;
    args.kv.keys = int8_ ? static_cast<void*>(k8.get()) : k.get();
    args.kv.values = int8_ ? static_cast<void*>(v8.get()) : v.get();
    if (int8_) args.kv.key_scales = k_scales.get(), args.kv.value_scales = v_scales.get();
    args.items = items.get(), args.tiles = device_tiles.get(), args.pages = table.get();
    args.partial = partial.get(), args.counters = counters.get();
    RunAttention(dtype_, shape, args, count, splits, {});
    for (unsigned counter : Download(counters)) EXPECT_EQ(counter, 0u);
    return DownloadFrom(out, dtype_);
  }

  std::vector<float> Reference() const {
    std::vector<float> out(q_.size());
    for (const AttentionItem& item : items_) {
      for (int i = 0; i < item.count; ++i) {
        for (int head = 0; head < heads_; ++head) {
          const int64_t at = (int64_t{item.begin + i} * heads_ + head) * dim_;
          OneRow(item, item.start + i + 1, head / (heads_ / kv_heads_), q_.data() + at,
                 out.data() + at);
        }
      }
    }
    return out;
  }

 private:
  int64_t RowOf(const AttentionItem& item, int row, int kv_head) const {
    return ((int64_t{table_[item.table + row / kPageRows]} * kv_heads_ + kv_head) * kPageRows +
            row % kPageRows) *
           dim_;
  }
  void OneRow(const AttentionItem& item, int length, int kv_head, const float* q,
              float* out) const {
    std::vector<double> p(length);
    double top = -INFINITY, sum = 0;
    for (int row = 0; row < length; ++row) {
      double dot = 0;
      for (int d = 0; d < dim_; ++d) dot += double{q[d]} * k_[RowOf(item, row, kv_head) + d];
      p[row] = dot / std::sqrt(double(dim_));
      top = std::max(top, p[row]);
    }
    for (double& x : p) sum += x = std::exp(x - top);
    for (int d = 0; d < dim_; ++d) {
      double y = 0;
      for (int row = 0; row < length; ++row) y += p[row] * v_[RowOf(item, row, kv_head) + d];
      out[d] = static_cast<float>(y / sum);
    }
  }
  void Quantize(std::vector<float>* values, std::vector<int8_t>* out,
                std::vector<float>* scales) const {
    for (size_t row = 0; row < values->size(); row += dim_) {
      float top = 0;
      for (int d = 0; d < dim_; ++d) top = std::max(top, std::abs((*values)[row + d]));
      scales->push_back(top / 127);
      for (int d = 0; d < dim_; ++d) {
        out->push_back(static_cast<int8_t>(std::nearbyint((*values)[row + d] / (top / 127))));
        (*values)[row + d] = Rounded(out->back() * (top / 127), dtype_);
      }
    }
  }

  const Dtype dtype_;
  const int heads_, kv_heads_, dim_;
  const bool int8_;
  const std::vector<Sequence> sequences_;
  int tokens_ = 0;
  std::vector<AttentionItem> items_;
  std::vector<int32_t> table_;
  std::vector<float> q_, k_, v_, k_scales_, v_scales_;
  std::vector<int8_t> k8_, v8_;
};

class AttentionTest : public CudaTest {};

constexpr AttentionShape kShapes[] = {AttentionShape::kFewRows, AttentionShape::kManyRows};

TEST_F(AttentionTest, DecodesEveryLength) {
  const std::vector<Sequence> lengths = {{0, 1},  {14, 1}, {15, 1},   {16, 1},  {62, 1},
                                         {63, 1}, {64, 1}, {1039, 1}, {4095, 1}};
  for (const Dtype dtype : kDtypes) {
    for (const auto& [heads, kv_heads, dim] :
         {std::tuple{1, 1, 64}, {7, 1, 80}, {16, 2, 128}, {40, 2, 16}}) {
      for (const bool int8 : {false, true}) {
        Case c(dtype, heads, kv_heads, dim, int8, lengths);
        const auto reference = c.Reference();
        for (const AttentionShape shape : kShapes) {
          for (const int splits : {1, 3, 32}) {
            EXPECT_LT(Distance(c.Run(shape, splits), reference), Tolerance(dtype))
                << Name(dtype) << " heads " << heads << "/" << kv_heads << " dim " << dim
                << " int8 " << int8 << " shape " << static_cast<int>(shape) << " splits " << splits;
          }
        }
      }
    }
  }
}

TEST_F(AttentionTest, PrefillsWithAndWithoutAContext) {
  const std::vector<Sequence> chunks = {{0, 1},    {0, 15},  {0, 17},   {0, 200},
                                        {37, 100}, {512, 5}, {1000, 33}};
  for (const Dtype dtype : kDtypes) {
    for (const auto& [heads, kv_heads, dim] :
         {std::tuple{2, 2, 64}, {6, 2, 80}, {8, 1, 128}, {7, 1, 128}}) {
      Case c(dtype, heads, kv_heads, dim, false, chunks);
      const auto reference = c.Reference();
      for (const AttentionShape shape : kShapes) {
        for (const int splits : {1, 4}) {
          EXPECT_LT(Distance(c.Run(shape, splits), reference), Tolerance(dtype))
              << Name(dtype) << " heads " << heads << "/" << kv_heads << " dim " << dim << " shape "
              << static_cast<int>(shape) << " splits " << splits;
        }
      }
    }
  }
}

TEST_F(AttentionTest, RepeatsItsBitsHoweverBlocksRun) {
  Case c(Dtype::kBFloat16, 16, 2, 128, false, {{2000, 1}, {1039, 1}});
  const auto first = c.Run(AttentionShape::kFewRows, 32);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(c.Run(AttentionShape::kFewRows, 32), first);
}

}  // namespace
}  // namespace chord::cuda
