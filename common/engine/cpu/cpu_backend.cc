// The CPU: our own kernels on our own threads. Weights stay in the file's bf16 also when the model
// computes in float32 (every bf16 value is a float32 value): panels are widened on the way into a
// product of many rows, and few rows are multiplied straight from the mapped file, which halves
// what a decode step reads.
//
// An element of any result depends on its own inputs alone, bit for bit: never on how many rows
// came with it, on the tiles, or on the threads. Tasks cut outputs, never a sum, and every sum has
// one order (cpu_kernels.h).
#include "common/engine/cpu/cpu_backend.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "common/base/checked_math.h"
#include "common/engine/backend.h"
#include "common/engine/cpu/cpu_kernels.h"
#include "common/engine/cpu/thread_pool.h"
#include "common/engine/cpu/widen.h"
#include "common/engine/packed/packed_kernels.h"
#include "common/engine/packed/quantized_input.h"

namespace chord::engine {
namespace {

using model::DType;

// Up to this many rows of x, weights are used where they lie; beyond it a widened panel pays.
constexpr int64_t kFewRows = 8;
constexpr int64_t kTileRows = 256;  // of x
constexpr int64_t kTileCols = 128;  // of the output: a panel of this many weight rows stays in L2
constexpr int64_t kQueryTile = 64;
// Keys whose softmax is one piece. Pieces begin at multiples of it in the sequence or segment and
// are joined in order.
constexpr int64_t kKeyBlock = 256;
constexpr int64_t kBlockPages = kKeyBlock / kPageKeys;
static_assert(kPageKeys == kKvPageTokens);
// Up to this many rows of a sequence, its key blocks are shared out among the threads.
constexpr int64_t kSplitRows = 8;
// Floats of scratch per thread, for products (two panels, two tiles and a row) or attention
// (queries, two sums, a page and two blocks of keys and values; scores; maxima and totals).
constexpr int64_t kProductScratch = PanelSize(kTileRows, kProductDepth) +
                                    PanelSize(kTileCols, kProductDepth) +
                                    2 * kTileRows * kTileCols + kTileCols;
constexpr int64_t kAttentionScratch =
    (3 * kQueryTile + kPageKeys + 2 * kKeyBlock) * kMaxHeadDim + kQueryTile * (kKeyBlock + 4);
constexpr int64_t kScratch = std::max(kProductScratch, kAttentionScratch);
static_assert(kScratch >= kMaxWidth);
// Less than this many multiply-adds is not worth waking a thread for.
constexpr int64_t kGrain = 32'768;

float* F32(const Mat& m, int64_t row, int64_t col = 0) {
  return reinterpret_cast<float*>(m.at(row, col));
}
uint16_t* B16(const Mat& m, int64_t row, int64_t col = 0) {
  return reinterpret_cast<uint16_t*>(m.at(row, col));
}
int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(DType dtype)
      : Backend(dtype),
        round_(dtype == DType::kBFloat16),
        kernels_(Kernels()),
        packed_kernels_(ChoosePackedKernels()),
        pool_(CpuThreads()),
        scratch_(pool_.threads()) {
    for (auto& scratch : scratch_) scratch.reset(new float[kScratch]);
  }

  Mat Allocate(int64_t rows, int64_t cols, DType dtype) override {
    owned_.push_back(AllocateOwned(rows, cols, dtype));
    return owned_.back().mat;
  }

  Owned AllocateOwned(int64_t rows, int64_t cols, DType dtype) override {
    constexpr int64_t kAlign = 64;
    const auto count = CheckedMul(rows, cols);
    const auto bytes = count ? CheckedMul(*count, model::SizeOf(dtype)) : std::nullopt;
    const auto padded = bytes ? CheckedAdd(*bytes, kAlign) : std::nullopt;
    if (!padded || *count < 0) throw std::bad_alloc();
    // calloc hands out untouched pages for large sizes: a KV slot costs memory when it is used.
    void* raw = std::calloc(1, static_cast<size_t>(*padded));
    if (raw == nullptr) throw std::bad_alloc();
    std::shared_ptr<void> memory(raw, std::free);
    const auto address = (reinterpret_cast<uintptr_t>(raw) + kAlign - 1) & ~uintptr_t{kAlign - 1};
    return {Mat{reinterpret_cast<std::byte*>(address), dtype, rows, cols, cols}, memory};
  }

  Mat AdoptMatrix(const model::TensorView& tensor, int64_t rows, int64_t cols) override {
    const bool in_place = tensor.dtype == DType::kBFloat16 ||
                          (tensor.dtype == DType::kFloat32 && dtype_ == DType::kFloat32);
    const auto address = reinterpret_cast<uintptr_t>(tensor.data);
    if (in_place && address % model::SizeOf(tensor.dtype) == 0) {
      return {const_cast<std::byte*>(tensor.data), tensor.dtype, rows, cols, cols};
    }
    const Mat out = Allocate(rows, cols, tensor.dtype == DType::kBFloat16 ? tensor.dtype : dtype_);
    Convert(tensor, rows * cols, out);
    return out;
  }

  Mat AdoptTable(const model::TensorView& tensor, int64_t rows, int64_t cols) override {
    if (!tensor.IsAligned()) return AdoptMatrix(tensor, rows, cols);
    return {const_cast<std::byte*>(tensor.data), tensor.dtype, rows, cols, cols};
  }

  Mat AdoptVector(const model::TensorView& tensor, int64_t size) override {
    // float32 holding values of the compute dtype: the kernels need no second form.
    const Mat out = Allocate(1, size, DType::kFloat32);
    Convert(tensor, size, out);
    if (round_) {
      std::vector<uint16_t> rounded(size);
      kernels_.narrow(F32(out, 0), rounded.data(), size);
      kernels_.widen(rounded.data(), F32(out, 0), size);
    }
    return out;
  }

  void Upload(const float* host, int64_t host_stride, absl::Span<const int32_t> rows,
              const Mat& dst) override {
    ForRows(dst.rows, dst.cols, [&](int64_t r, int) {
      const float* in = host + (rows.empty() ? r : rows[r]) * host_stride;
      StoreRow(in, dst, r);
    });
  }

  void UploadFlat(const float* host, int64_t first, int64_t count, const Mat& dst) override {
    if (dst.dtype == DType::kBFloat16) {
      kernels_.narrow(host, B16(dst, 0) + first, count);
    } else {
      std::memcpy(F32(dst, 0) + first, host, count * sizeof(float));
    }
  }

  void DownloadFloat(const Mat& src, float* host) override {
    for (int64_t r = 0; r < src.rows; ++r, host += src.cols) {
      if (src.dtype == DType::kBFloat16) {
        kernels_.widen(B16(src, r), host, src.cols);
      } else {
        std::memcpy(host, F32(src, r), src.cols * sizeof(float));
      }
    }
  }

  void DownloadRows(const Mat& src, absl::Span<const int32_t> rows, std::byte* host) override {
    const int64_t bytes = src.cols * model::SizeOf(src.dtype);
    for (int64_t r = 0; r < src.rows; ++r) {
      std::memcpy(host + rows[r] * bytes, src.at(r), bytes);
    }
  }

  void GatherRows(const Mat& src, absl::Span<const int32_t> rows, const Mat& out) override {
    for (int64_t r = 0; r < out.rows; ++r) {
      if (rows[r] < 0) continue;
      if (src.dtype == out.dtype) {
        std::memcpy(out.at(r), src.at(rows[r]), out.cols * model::SizeOf(out.dtype));
      } else if (src.dtype == DType::kBFloat16) {
        kernels_.widen(B16(src, rows[r]), F32(out, r), out.cols);
      } else if (src.dtype == DType::kFloat16) {
        GatherHalf(src, rows[r], out, r);
      } else {
        kernels_.narrow(F32(src, rows[r]), B16(out, r), out.cols);
      }
    }
  }

  void Linear(const Mat& x, absl::Span<const LinearJob> jobs, bool add) override {
    for (size_t job = 1; job < jobs.size(); ++job) {
      if (TakesSameInput(*jobs[0].layer, *jobs[job].layer)) continue;
      Linear(x, jobs.subspan(0, job), add);
      return Linear(x, jobs.subspan(job), add);
    }
    const float* few = PrepareInput(x, *jobs[0].layer);
    MakeTiles(
        x, jobs.size(), [&](size_t job) { return jobs[job].out.cols; }, *jobs[0].layer, 1);
    pool_.Run(tiles_.size(), [&](int64_t task, int worker) {
      const Tile& tile = tiles_[task];
      const LinearJob& job = jobs[tile.job];
      const Mat& out = job.out;
      if (out.dtype == DType::kFloat32 && !add) {
        Product(x, few, *job.layer, tile, F32(out, tile.row, tile.col), out.stride, worker);
        return;
      }
      float* c = scratch_[worker].get() + kScratch - kTileRows * kTileCols - kTileCols;
      Product(x, few, *job.layer, tile, c, tile.cols, worker);
      float* sum = scratch_[worker].get() + kScratch - kTileCols;
      for (int64_t r = 0; r < tile.rows; ++r, c += tile.cols) {
        const int64_t row = tile.row + r;
        if (out.dtype == DType::kFloat32) {
          kernels_.add(F32(out, row, tile.col), c, tile.cols, /*round=*/false);
        } else if (add) {
          kernels_.widen(B16(out, row, tile.col), sum, tile.cols);
          kernels_.add(sum, c, tile.cols, /*round=*/true);
          kernels_.narrow(sum, B16(out, row, tile.col), tile.cols);
        } else {
          kernels_.narrow(c, B16(out, row, tile.col), tile.cols);
        }
      }
    });
  }

  void GatedLinear(const Mat& x, const LinearLayer& gate, const LinearLayer& up,
                   const Mat& out) override {
    if (!TakesSameInput(gate, up)) return GatedLinearApart(x, gate, up, out);
    const float* few = PrepareInput(x, gate);
    MakeTiles(
        x, 1, [&](size_t) { return out.cols; }, gate, 2);
    pool_.Run(tiles_.size(), [&](int64_t task, int worker) {
      const Tile& tile = tiles_[task];
      const bool direct = out.dtype == DType::kFloat32;
      float* u = scratch_[worker].get() + kScratch - kTileRows * kTileCols - kTileCols;
      float* g = direct ? F32(out, tile.row, tile.col) : u - kTileRows * kTileCols;
      const int64_t ld_g = direct ? out.stride : tile.cols;
      Product(x, few, gate, tile, g, ld_g, worker);
      Product(x, few, up, tile, u, tile.cols, worker);
      for (int64_t r = 0; r < tile.rows; ++r, g += ld_g, u += tile.cols) {
        kernels_.silu_mul(g, u, tile.cols, round_);
        if (!direct) kernels_.narrow(g, B16(out, tile.row + r, tile.col), tile.cols);
      }
    });
  }

  void RmsNorm(const Mat& x, const Mat& weight, float eps, const Mat& out) override {
    ForRows(x.rows, x.cols, [&](int64_t r, int worker) {
      if (x.dtype == DType::kFloat32) {
        kernels_.rms_norm(F32(x, r), F32(weight, 0), x.cols, eps, false, F32(out, r));
        return;
      }
      // Rows longer than the scratch do not exist: kMaxWidth.
      float* row = scratch_[worker].get();
      kernels_.widen(B16(x, r), row, x.cols);
      kernels_.rms_norm(row, F32(weight, 0), x.cols, eps, true, row);
      kernels_.narrow(row, B16(out, r), x.cols);
    });
  }

  void Gelu(const Mat& x) override {
    ForRows(x.rows, 4 * x.cols, [&](int64_t r, int worker) {
      if (x.dtype == DType::kFloat32) {
        kernels_.gelu(F32(x, r), x.cols);
        return;
      }
      float* row = scratch_[worker].get();
      kernels_.widen(B16(x, r), row, x.cols);
      kernels_.gelu(row, x.cols);
      kernels_.narrow(row, B16(x, r), x.cols);
    });
  }

  void Rotate(const Mat& x, int heads, const Mat& cos, const Mat& sin, bool round_each) override {
    const int64_t half = cos.cols;
    ForRows(x.rows, 2 * x.cols, [&](int64_t r, int worker) {
      const float* c = F32(cos, r);
      const float* s = F32(sin, r);
      if (x.dtype == DType::kFloat32) {
        kernels_.rotate(F32(x, r), heads, half, c, s, false);
        return;
      }
      float* row = scratch_[worker].get();
      kernels_.widen(B16(x, r), row, heads * 2 * half);
      kernels_.rotate(row, heads, half, c, s, round_each);
      kernels_.narrow(row, B16(x, r), heads * 2 * half);
    });
  }

  void SegmentAttention(const Mat& qkv, int heads, absl::Span<const Segment> segments,
                        const Mat& out) override {
    const int64_t width = out.cols;
    const int64_t dim = width / heads;
    query_tiles_.clear();
    for (const Segment& segment : segments) {
      for (int64_t row = 0; row < segment.length; row += kQueryTile) {
        query_tiles_.push_back({segment.begin + row, std::min(kQueryTile, segment.length - row),
                                segment.begin, segment.length});
      }
    }
    pool_.Run(query_tiles_.size() * heads, [&](int64_t task, int worker) {
      const QueryTile& tile = query_tiles_[task / heads];
      AttendSegment(qkv, tile, task % heads * dim, dim, out, worker);
    });
  }

  KvCache AllocateKv(int64_t pages, const AttentionHeads& heads, KvType type) override {
    KvCache cache{pages, heads, type};
    const int64_t width = heads.kv * kPageKeys;  // rows of all heads in a page
    const int64_t element = KvElementSize(type);
    // As float32 of the same size; a page is a multiple of it.
    cache.keys = Allocate(pages, width * heads.dim * element / 4, DType::kFloat32).data;
    cache.values = Allocate(pages, width * heads.dim * element / 4, DType::kFloat32).data;
    if (type == KvType::kInt8) {
      cache.key_scales = Allocate(pages, width, DType::kFloat32).data;
      cache.value_scales = Allocate(pages, width, DType::kFloat32).data;
    }
    return cache;
  }

  void StoreKv(const Mat& k, const Mat& v, absl::Span<const int32_t> rows,
               const KvCache& cache) override {
    const int64_t heads = cache.heads.kv, dim = cache.heads.dim;
    ForRows(k.rows, 8 * heads * dim, [&](int64_t r, int worker) {
      const int64_t page = rows[r] / kPageKeys, row = rows[r] % kPageKeys;
      for (int64_t head = 0; head < heads; ++head) {
        std::byte* keys = KvAt(cache, cache.keys, page, head);
        std::byte* values = KvAt(cache, cache.values, page, head);
        const std::byte* key = k.at(r, head * dim);
        const std::byte* value = v.at(r, head * dim);
        if (cache.type == KvType::kModel) {
          if (dtype_ == DType::kBFloat16) {
            Spread<uint16_t>(key, dim, keys, row);
          } else {
            Spread<float>(key, dim, keys, row);
          }
          const int64_t bytes = dim * model::SizeOf(dtype_);
          std::memcpy(values + row * bytes, value, bytes);
          continue;
        }
        float* wide = scratch_[worker].get();
        auto* quantized = reinterpret_cast<std::byte*>(wide + dim);
        const auto quantize = [&](const std::byte* from, float* scale) {
          const auto* in = reinterpret_cast<const float*>(from);
          if (dtype_ == DType::kBFloat16) {
            kernels_.widen(reinterpret_cast<const uint16_t*>(from), wide, dim);
            in = wide;
          }
          kernels_.quantize(in, dim, reinterpret_cast<int8_t*>(quantized), scale);
        };
        quantize(key, ScalesAt(cache, cache.key_scales, page, head) + row);
        Spread<int8_t>(quantized, dim, keys, row);
        quantize(value, ScalesAt(cache, cache.value_scales, page, head) + row);
        std::memcpy(values + row * dim, quantized, dim);
      }
    });
  }

  void CopyKvPage(const KvCache& cache, int32_t from, int32_t to, int64_t rows) override {
    const int64_t dim = cache.heads.dim, element = KvElementSize(cache.type);
    for (int64_t head = 0; head < cache.heads.kv; ++head) {
      const std::byte* keys = KvAt(cache, cache.keys, from, head);
      std::byte* copies = KvAt(cache, cache.keys, to, head);
      for (int64_t d = 0; d < dim; ++d) {
        const int64_t at = d * kPageKeys * element;
        std::memcpy(copies + at, keys + at, rows * element);
      }
      std::memcpy(KvAt(cache, cache.values, to, head), KvAt(cache, cache.values, from, head),
                  rows * dim * element);
      if (cache.type == KvType::kModel) continue;
      for (std::byte* scales : {cache.key_scales, cache.value_scales}) {
        std::memcpy(ScalesAt(cache, scales, to, head), ScalesAt(cache, scales, from, head),
                    rows * sizeof(float));
      }
    }
  }

  void CachedAttention(const Mat& q, const KvCache& cache, absl::Span<const QueryRun> runs,
                       const Mat& out) override {
    const AttentionHeads& heads = cache.heads;
    const int64_t group = heads.query / heads.kv;
    attention_.clear();
    int64_t partials = 0, work = 0;
    for (const QueryRun& run : runs) {
      for (int64_t row = 0; row < run.count; row += kQueryTile) {
        AttentionTask task;
        task.run = &run;
        task.row = row;
        task.rows = std::min(kQueryTile, run.count - row);
        // Heads that share keys go together as far as a tile holds them.
        task.heads = std::clamp<int64_t>(kQueryTile / task.rows, 1, group);
        const int64_t blocks = CeilDiv(run.start + row + task.rows, kKeyBlock);
        const bool split = blocks > 1 && run.count <= kSplitRows;
        work += task.rows * (run.start + row + task.rows) * heads.query * heads.dim;
        for (int64_t head = 0, taken = 0; head < heads.query; head += taken) {
          taken = std::min(task.heads, group - head % group);  // never across a kv head
          for (int64_t block = 0; block < blocks; block += split ? 1 : blocks) {
            AttentionTask part = task;
            part.head = head;
            part.heads = taken;
            part.block = block;
            part.end_block = split ? block + 1 : blocks;
            if (split) {
              part.partial = partials;
              partials += part.rows * part.heads * (heads.dim + 2);
            }
            attention_.push_back(part);
          }
        }
      }
    }
    partials_.resize(partials);
    const auto attend = [&](int64_t task, int worker) {
      AttendTask(attention_[task], q, cache, out, worker);
    };
    if (work < kGrain) {
      for (size_t task = 0; task < attention_.size(); ++task) attend(task, 0);
    } else {
      pool_.Run(attention_.size(), attend);
    }
    if (partials > 0) JoinSplits(cache, out);
  }

 private:
  struct Tile {
    size_t job = 0;
    int64_t row = 0, rows = 0;
    int64_t col = 0, cols = 0;
  };
  struct QueryTile {
    int64_t row = 0, rows = 0;
    int64_t key = 0, keys = 0;
  };
  // Rows of a run and heads of one kv head, against the key blocks [block, end_block).
  struct AttentionTask {
    const QueryRun* run = nullptr;
    int64_t row = 0, rows = 0;  // of the run
    int64_t head = 0, heads = 0;
    int64_t block = 0, end_block = 0;
    int64_t partial = -1;  // where its part of a split result goes in partials_
  };
  // Keys and values of one head in one key block.
  struct KeyBlock {
    const void* keys[kBlockPages];
    const void* values[kBlockPages];
    const float* key_scales[kBlockPages];
    const float* value_scales[kBlockPages];
    int64_t keys_end = 0;  // how many there are
    int64_t value_stride = 0;
  };
  // A result before its division by `total`: sums [rows, dim], the rest [rows]. The true sum of row
  // r is sums[r]·exp(max[r]).
  struct Softmax {
    float* sums = nullptr;
    float* max = nullptr;
    float* total = nullptr;
  };

  // What attention needs beside its queries.
  struct Scratch {
    Softmax result, next;
    float* scores;
    float* end;
  };
  static Scratch ScratchAfter(float* queries, int64_t dim) {
    float* result = queries + kQueryTile * dim;
    float* next = result + kQueryTile * dim;
    float* scores = next + kQueryTile * dim;
    float* rest = scores + kQueryTile * kKeyBlock;
    return {{result, rest, rest + kQueryTile},
            {next, rest + 2 * kQueryTile, rest + 3 * kQueryTile},
            scores,
            rest + 4 * kQueryTile};
  }

  // Tensor elements -> dense `out`, float32 or bf16.
  void Convert(const model::TensorView& tensor, int64_t count, const Mat& out) {
    constexpr int64_t kPiece = 1 << 16;
    pool_.Run(CeilDiv(count, kPiece), [&](int64_t piece, int worker) {
      const int64_t first = piece * kPiece;
      const int64_t n = std::min(kPiece, count - first);
      const std::byte* in = tensor.data + first * model::SizeOf(tensor.dtype);
      float* wide = scratch_[worker].get();
      Widen(tensor.dtype, {in, static_cast<size_t>(n * model::SizeOf(tensor.dtype))}, wide);
      UploadFlat(wide, first, n, out);
    });
  }

  void LoadRow(const Mat& src, int64_t row, int64_t col, int64_t count, float* out) {
    if (src.dtype == DType::kBFloat16) {
      kernels_.widen(B16(src, row, col), out, count);
    } else {
      std::memcpy(out, F32(src, row, col), count * sizeof(float));
    }
  }

  void StoreRow(const float* in, const Mat& dst, int64_t row) {
    if (dst.dtype == DType::kBFloat16) {
      kernels_.narrow(in, B16(dst, row), dst.cols);
    } else {
      std::memcpy(F32(dst, row), in, dst.cols * sizeof(float));
    }
  }

  // fn(row, worker) for all rows, on as many threads as the work deserves.
  template <typename Fn>
  void ForRows(int64_t rows, int64_t cost, const Fn& fn) {
    const int64_t block = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, cost));
    pool_.Run(CeilDiv(rows, block), [&](int64_t task, int worker) {
      const int64_t end = std::min(rows, (task + 1) * block);
      for (int64_t row = task * block; row < end; ++row) fn(row, worker);
    });
  }

  // A row of a float16 table.
  void GatherHalf(const Mat& src, int64_t from, const Mat& out, int64_t to) {
    few_.resize(src.cols);
    Widen(src.dtype, {src.at(from), static_cast<size_t>(2 * src.cols)}, few_.data());
    StoreRow(few_.data(), out, to);
  }

  // Cuts the outputs of one or more linear layers over the same x into tasks. Enough of them that
  // threads end together, large enough that the GEMM stays near its peak.
  template <typename Cols>
  void MakeTiles(const Mat& x, size_t jobs, const Cols& cols, const LinearLayer& layer,
                 int layers) {
    const int64_t unit = layer.packed != nullptr ? kPackedBlock : 8;
    tiles_.clear();
    int64_t total = 0;
    for (size_t job = 0; job < jobs; ++job) total += cols(job);
    const int64_t wanted = pool_.threads() == 1 ? 1 : 4 * pool_.threads();
    int64_t tile_rows = x.rows, tile_cols = kTileCols;
    if (x.rows <= kFewRows) {
      const int64_t worth = CeilDiv(kGrain, std::max<int64_t>(1, x.cols * x.rows * layers));
      tile_cols = std::clamp<int64_t>(std::max(CeilDiv(total, wanted), worth), 8, kTileCols);
      tile_cols = CeilDiv(tile_cols, unit) * unit;
    } else {
      tile_rows = std::min(kTileRows, CeilDiv(x.rows, CeilDiv(x.rows, kTileRows)));
      while (CeilDiv(x.rows, tile_rows) * CeilDiv(total, tile_cols) < wanted &&
             (tile_rows > 64 || tile_cols > 64)) {
        (tile_rows >= tile_cols ? tile_rows : tile_cols) /= 2;
      }
    }
    for (size_t job = 0; job < jobs; ++job) {
      for (int64_t col = 0; col < cols(job); col += tile_cols) {
        for (int64_t row = 0; row < x.rows; row += tile_rows) {
          tiles_.push_back({job, row, std::min(tile_rows, x.rows - row), col,
                            std::min(tile_cols, cols(job) - col)});
        }
      }
    }
  }

  // Layers whose products can share what PrepareInput makes of x.
  static bool TakesSameInput(const LinearLayer& a, const LinearLayer& b) {
    if (a.packed == nullptr || b.packed == nullptr) return a.packed == b.packed;
    return QuantizedInput::Serves(*a.packed, *b.packed);
  }

  // x as the products of `layer` take it: quantised, or as float32 if it has few rows, which is
  // what is returned.
  const float* PrepareInput(const Mat& x, const LinearLayer& layer) {
    if (layer.packed == nullptr) return FewRows(x);
    quantized_.Reset(*layer.packed, x.rows, pool_.threads());
    ForRows(x.rows, 4 * x.cols, [&](int64_t r, int worker) {
      if (x.dtype == DType::kFloat32) {
        quantized_.SetRow(r, F32(x, r), worker);
      } else {
        float* row = scratch_[worker].get();
        kernels_.widen(B16(x, r), row, x.cols);
        quantized_.SetRow(r, row, worker);
      }
    });
    return nullptr;
  }

  // gate and up want different inputs (each has an order of its own): one after the other.
  void GatedLinearApart(const Mat& x, const LinearLayer& gate, const LinearLayer& up,
                        const Mat& out) {
    gated_.resize(2 * out.rows * out.cols);
    const auto wide = [&](int64_t at) {
      return Mat{reinterpret_cast<std::byte*>(gated_.data() + at * out.rows * out.cols),
                 DType::kFloat32, out.rows, out.cols, out.cols};
    };
    const LinearJob gates{&gate, wide(0)}, ups{&up, wide(1)};
    Linear(x, {&gates, 1}, /*add=*/false);
    Linear(x, {&ups, 1}, /*add=*/false);
    ForRows(out.rows, 4 * out.cols, [&](int64_t r, int) {
      kernels_.silu_mul(F32(gates.out, r), F32(ups.out, r), out.cols, round_);
      StoreRow(F32(gates.out, r), out, r);
    });
  }

  // x as float32 with stride x.cols when it has few rows, else null.
  const float* FewRows(const Mat& x) {
    if (x.rows > kFewRows) return nullptr;
    if (x.dtype == DType::kFloat32 && (x.stride == x.cols || x.rows == 1)) return F32(x, 0);
    few_.resize(x.rows * x.cols);
    DownloadFloat(x, few_.data());
    return few_.data();
  }

  // c[tile.rows, tile.cols] = x·weightᵀ + bias in float32, before any rounding. Uses the first two
  // regions of the worker's scratch.
  void Product(const Mat& x, const float* few, const LinearLayer& layer, const Tile& tile, float* c,
               int64_t ld_c, int worker) {
    if (layer.packed != nullptr) {
      for (int64_t col = 0; col < tile.cols; col += kPackedBlock) {
        packed_kernels_.products(layer.packed->view(), (tile.col + col) / kPackedBlock,
                                 quantized_.rows(), tile.row, tile.rows, c + col, ld_c);
      }
    } else {
      FloatProduct(x, few, layer.weight, tile, c, ld_c, worker);
    }
    if (layer.bias.data == nullptr) return;
    for (int64_t r = 0; r < tile.rows; ++r) {
      kernels_.add(c + r * ld_c, F32(layer.bias, 0, tile.col), tile.cols, /*round=*/false);
    }
  }

  void FloatProduct(const Mat& x, const float* few, const Mat& w, const Tile& tile, float* c,
                    int64_t ld_c, int worker) {
    const bool wide_x = x.dtype == DType::kFloat32, wide_w = w.dtype == DType::kFloat32;
    float* panel_w = scratch_[worker].get();
    float* panel_x = panel_w + PanelSize(kTileCols, kProductDepth);
    for (int64_t k = 0; k < x.cols; k += kProductDepth) {
      const int64_t depth = std::min(kProductDepth, x.cols - k);
      if (few != nullptr) {
        if (wide_w) {
          kernels_.products_f32(few + k, x.cols, tile.rows, F32(w, tile.col, k), w.stride,
                                tile.cols, depth, k > 0, c, ld_c);
        } else {
          kernels_.products_bf16(few + k, x.cols, tile.rows, B16(w, tile.col, k), w.stride,
                                 tile.cols, depth, k > 0, c, ld_c);
        }
        continue;
      }
      const bool in_place = wide_x && InPlace(x.cols);
      if (wide_x && !in_place) {
        kernels_.pack_x_f32(F32(x, tile.row, k), x.stride, tile.rows, depth, panel_x);
      } else if (!wide_x) {
        kernels_.pack_x_bf16(B16(x, tile.row, k), x.stride, tile.rows, depth, panel_x);
      }
      if (wide_w) {
        kernels_.pack_w_f32(F32(w, tile.col, k), w.stride, tile.cols, depth, panel_w);
      } else {
        kernels_.pack_w_bf16(B16(w, tile.col, k), w.stride, tile.cols, depth, panel_w);
      }
      kernels_.panel_products(in_place ? F32(x, tile.row) : panel_x, in_place ? x.stride : 0,
                              tile.rows, panel_w, tile.cols, depth, k > 0, c, ld_c);
    }
  }

  // One head of up to kQueryTile rows against all rows of their segment; the head begins at column
  // `col` of queries, keys and values.
  void AttendSegment(const Mat& qkv, const QueryTile& tile, int64_t col, int64_t dim,
                     const Mat& out, int worker) {
    float* queries = scratch_[worker].get();
    const Scratch s = ScratchAfter(queries, dim);
    float* row = s.end;  // one page of keys, as they lie
    float* keys = row + kPageKeys * dim;
    float* values = keys + kKeyBlock * dim;
    const bool wide = qkv.dtype == DType::kFloat32;
    for (int64_t r = 0; r < tile.rows; ++r) LoadRow(qkv, tile.row + r, col, dim, queries + r * dim);
    KeyBlock block;
    block.value_stride = wide ? qkv.stride : dim;
    for (int64_t first = 0; first < tile.keys; first += kKeyBlock) {
      block.keys_end = std::min(kKeyBlock, tile.keys - first);
      for (int64_t i = 0; i * kPageKeys < block.keys_end; ++i) {
        const int64_t at = tile.key + first + i * kPageKeys;
        const int64_t count = std::min(kPageKeys, block.keys_end - i * kPageKeys);
        const float* page = wide ? F32(qkv, at, out.cols + col) : row;
        for (int64_t j = 0; !wide && j < count; ++j) {
          LoadRow(qkv, at + j, out.cols + col, dim, row + j * dim);
          LoadRow(qkv, at + j, 2 * out.cols + col, dim, values + (i * kPageKeys + j) * dim);
        }
        float* transposed = keys + i * kPageKeys * dim;
        kernels_.transpose_page(page, wide ? qkv.stride : dim, count, dim, transposed);
        block.keys[i] = transposed;
        block.values[i] = wide ? F32(qkv, at, 2 * out.cols + col) : values + i * kPageKeys * dim;
        block.key_scales[i] = block.value_scales[i] = nullptr;
      }
      const auto visible = [&](int64_t) { return block.keys_end; };
      AttendBlock(kKvFloat32, queries, tile.rows, dim, block, visible, s.scores,
                  first == 0 ? s.result : s.next);
      for (int64_t r = 0; first > 0 && r < tile.rows; ++r) Join(s.next, r, s.result, r, dim);
    }
    for (int64_t r = 0; r < tile.rows; ++r) {
      kernels_.scale(s.result.sums + r * dim, dim, 1 / s.result.total[r]);
      StoreRow(s.result.sums + r * dim, out.Cols(col, dim), tile.row + r);
    }
  }

  // --- paged keys and values. Of a page and kv head: keys [dim, kPageKeys] transposed, so that a
  // query is multiplied with a register of keys at once, and values [kPageKeys, dim].

  int64_t KvElementSize(KvType type) const {
    return type == KvType::kInt8 ? 1 : model::SizeOf(dtype_);
  }
  std::byte* KvAt(const KvCache& cache, std::byte* base, int64_t page, int64_t head) const {
    return base +
           (page * cache.heads.kv + head) * kPageKeys * cache.heads.dim * KvElementSize(cache.type);
  }
  static float* ScalesAt(const KvCache& cache, std::byte* base, int64_t page, int64_t head) {
    return reinterpret_cast<float*>(base) + (page * cache.heads.kv + head) * kPageKeys;
  }

  // A key of `dim` values -> column `column` of its page.
  template <typename T>
  static void Spread(const std::byte* key, int64_t dim, std::byte* page, int64_t column) {
    const T* in = reinterpret_cast<const T*>(key);
    T* out = reinterpret_cast<T*>(page) + column;
    for (int64_t d = 0; d < dim; ++d) out[d * kPageKeys] = in[d];
  }

  KvElement ElementOf(KvType type) const {
    if (type == KvType::kInt8) return kKvInt8;
    return dtype_ == DType::kBFloat16 ? kKvBFloat16 : kKvFloat32;
  }

  void WidenKv(KvElement element, const void* in, int64_t count, float* out) {
    if (element == kKvInt8) {
      kernels_.widen_int8(static_cast<const int8_t*>(in), out, count);
    } else {
      kernels_.widen(static_cast<const uint16_t*>(in), out, count);
    }
  }

  // Softmax of dense `queries` [rows, dim] over one block; query r sees its first visible(r) keys,
  // <= 0: none, which leaves max[r] at −inf. `scores` has kKeyBlock floats a row.
  template <typename Visible>
  void AttendBlock(KvElement element, const float* queries, int64_t rows, int64_t dim,
                   const KeyBlock& block, const Visible& visible, float* scores,
                   const Softmax& out) {
    const float scale = Scale(dim);
    for (int64_t page = 0; page * kPageKeys < block.keys_end; ++page) {
      kernels_.page_scores[element](queries, rows, dim, block.keys[page], block.key_scales[page],
                                    scores + page * kPageKeys, kKeyBlock);
    }
    for (int64_t r = 0; r < rows; ++r) {
      float* row = scores + r * kKeyBlock;
      const int64_t seen = std::clamp<int64_t>(visible(r), 0, block.keys_end);
      out.max[r] = -std::numeric_limits<float>::infinity();
      out.total[r] = 0;
      if (seen > 0) kernels_.softmax_block(row, seen, scale, &out.max[r], &out.total[r]);
      std::fill(row + seen, row + block.keys_end, 0.0f);
    }
    kernels_.page_sums[element](scores, kKeyBlock, rows, block.values, block.value_stride,
                                block.value_scales[0] == nullptr ? nullptr : block.value_scales,
                                block.keys_end, dim, out.sums);
  }

  // Adds the next block of row r to those before it.
  void Join(const Softmax& next, int64_t from, const Softmax& into, int64_t r, int64_t dim) {
    if (next.total[from] == 0) return;  // it saw nothing there
    float* sums = into.sums + r * dim;
    const float top = std::max(into.max[r], next.max[from]);
    const float keep = std::exp(into.max[r] - top), take = std::exp(next.max[from] - top);
    kernels_.scale(sums, dim, keep);
    kernels_.weighted_sum_f32(&take, next.sums + from * dim, dim, 1, dim, sums);
    into.total[r] = into.total[r] * keep + next.total[from] * take;
    into.max[r] = top;
  }

  void AttendTask(const AttentionTask& task, const Mat& q, const KvCache& cache, const Mat& out,
                  int worker) {
    const int64_t dim = cache.heads.dim, rows = task.rows * task.heads;
    const int64_t kv_head = task.head / (cache.heads.query / cache.heads.kv);
    const QueryRun& run = *task.run;
    float* queries = scratch_[worker].get();  // a row's heads one after another
    const Scratch s = ScratchAfter(queries, dim);
    Softmax result = s.result;
    if (task.partial >= 0) {
      result.sums = partials_.data() + task.partial;
      result.max = result.sums + rows * dim;
      result.total = result.max + rows;
    }
    for (int64_t r = 0; r < task.rows; ++r) {
      LoadRow(q, run.begin + task.row + r, task.head * dim, task.heads * dim,
              queries + r * task.heads * dim);
    }
    const KvElement stored = ElementOf(cache.type);
    // Many rows read the same keys: widened once (exactly, so the bits are the same).
    const bool widen = stored != kKvFloat32 && rows > kFewRows;
    const KvElement element = widen ? kKvFloat32 : stored;
    KeyBlock block;
    block.value_stride = dim;
    for (int64_t b = task.block; b < task.end_block; ++b) {
      const int64_t first = b * kKeyBlock;
      block.keys_end = std::min(kKeyBlock, run.start + task.row + task.rows - first);
      for (int64_t i = 0; i * kPageKeys < block.keys_end; ++i) {
        const int64_t page = run.pages[b * kBlockPages + i];
        block.keys[i] = KvAt(cache, cache.keys, page, kv_head);
        block.values[i] = KvAt(cache, cache.values, page, kv_head);
        const bool scaled = cache.type == KvType::kInt8;
        if (widen) {
          float* wide = s.end + 2 * i * kPageKeys * dim;
          WidenKv(stored, block.keys[i], kPageKeys * dim, wide);
          block.keys[i] = wide;
          wide += kPageKeys * dim;
          const int64_t count = std::min(kPageKeys, block.keys_end - i * kPageKeys);
          WidenKv(stored, block.values[i], count * dim, wide);
          block.values[i] = wide;
        }
        block.key_scales[i] = scaled ? ScalesAt(cache, cache.key_scales, page, kv_head) : nullptr;
        block.value_scales[i] =
            scaled ? ScalesAt(cache, cache.value_scales, page, kv_head) : nullptr;
      }
      const auto visible = [&](int64_t r) {
        return run.start + task.row + r / task.heads + 1 - first;
      };
      const bool is_first = b == task.block;
      AttendBlock(element, queries, rows, dim, block, visible, s.scores,
                  is_first ? result : s.next);
      for (int64_t r = 0; !is_first && r < rows; ++r) Join(s.next, r, result, r, dim);
    }
    if (task.partial < 0) StoreAttention(task, result, dim, out);
  }

  void StoreAttention(const AttentionTask& task, const Softmax& result, int64_t dim,
                      const Mat& out) {
    for (int64_t r = 0; r < task.rows * task.heads; ++r) {
      kernels_.scale(result.sums + r * dim, dim, 1 / result.total[r]);
      StoreRow(result.sums + r * dim, out.Cols((task.head + r % task.heads) * dim, dim),
               task.run->begin + task.row + r / task.heads);
    }
  }

  // The parts of split tasks, which are neighbours in attention_, in the order of their blocks.
  void JoinSplits(const KvCache& cache, const Mat& out) {
    const int64_t dim = cache.heads.dim;
    const auto result_of = [&](const AttentionTask& task) {
      float* sums = partials_.data() + task.partial;
      const int64_t rows = task.rows * task.heads;
      return Softmax{sums, sums + rows * dim, sums + rows * (dim + 1)};
    };
    for (size_t i = 0; i < attention_.size();) {
      const AttentionTask& task = attention_[i++];
      if (task.partial < 0) continue;
      const Softmax result = result_of(task);
      for (; i < attention_.size() && attention_[i].block > 0 && attention_[i].partial >= 0; ++i) {
        const Softmax next = result_of(attention_[i]);
        for (int64_t r = 0; r < task.rows * task.heads; ++r) Join(next, r, result, r, dim);
      }
      StoreAttention(task, result, dim, out);
    }
  }

  static float Scale(int64_t dim) {
    return static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  }

  const bool round_;
  const CpuKernels& kernels_;
  const PackedKernels& packed_kernels_;
  ThreadPool& pool_;
  std::vector<std::unique_ptr<float[]>> scratch_;  // per worker
  std::vector<Owned> owned_;
  std::vector<Tile> tiles_;
  std::vector<QueryTile> query_tiles_;
  std::vector<AttentionTask> attention_;
  std::vector<float> few_, partials_, gated_;
  QuantizedInput quantized_;  // of the product under way
};

}  // namespace

std::unique_ptr<Backend> MakeCpuBackend(DType dtype) { return std::make_unique<CpuBackend>(dtype); }

}  // namespace chord::engine
