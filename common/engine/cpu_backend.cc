// The CPU: libtorch's sgemm on one thread per tile, our own kernels for everything else, our own
// threads around both. Weights stay in the file's bf16 also when the model computes in float32
// (every bf16 value is a float32 value): panels are widened on the way into the GEMM, and single
// rows are multiplied straight from the mapped file, which halves what a decode step reads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "common/base/checked_math.h"
#include "common/engine/backend.h"
#include "common/engine/cpu_backend.h"
#include "common/engine/cpu_kernels.h"
#include "common/engine/thread_pool.h"
#include "common/engine/widen.h"

// MKL's, exported by libtorch_cpu. InitEngine checks that no other BLAS took its place.
extern "C" void sgemm_(const char* transa, const char* transb, const int* m, const int* n,
                       const int* k, const float* alpha, const float* a, const int* lda,
                       const float* b, const int* ldb, const float* beta, float* c, const int* ldc);

namespace chord::engine {
namespace {

using model::DType;

// Up to this many rows of x, a weight row is read once and multiplied with all of them; beyond it
// the GEMM wins although it copies.
constexpr int64_t kFewRows = 8;
constexpr int64_t kTileRows = 256;   // of x
constexpr int64_t kTileCols = 256;   // of the output: rows of the weight
constexpr int64_t kTileDepth = 1024;  // of the inner dimension, where something must be widened
constexpr int64_t kQueryTile = 64;
constexpr int64_t kKeyTile = 512;
constexpr int64_t kDecodeSplit = 256;  // keys a task of one-row attention looks at
// Floats of scratch per thread; see Scratch.
constexpr int64_t kScratch = kTileCols * kTileDepth + kTileRows * kTileDepth +
                             2 * kTileRows * kTileCols + kTileCols;
static_assert(kScratch >= (2 * kQueryTile + 2 * kKeyTile) * kMaxHeadDim + kQueryTile * kKeyTile +
                              2 * kQueryTile);
// Less than this many multiply-adds is not worth waking a thread for.
constexpr int64_t kGrain = 32'768;

float* F32(const Mat& m, int64_t row, int64_t col = 0) {
  return reinterpret_cast<float*>(m.at(row, col));
}
uint16_t* B16(const Mat& m, int64_t row, int64_t col = 0) {
  return reinterpret_cast<uint16_t*>(m.at(row, col));
}
int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// y[m, n] = beta·y + x[m, k] · op(w), row major; w is [n, k], or [k, n] when `plain`.
void Gemm(bool plain, int64_t m, int64_t n, int64_t k, const float* x, int64_t ld_x, const float* w,
          int64_t ld_w, float beta, float* y, int64_t ld_y) {
  const float one = 1;
  const int mi = static_cast<int>(m), ni = static_cast<int>(n), ki = static_cast<int>(k);
  const int lx = static_cast<int>(ld_x), lw = static_cast<int>(ld_w), ly = static_cast<int>(ld_y);
  sgemm_(plain ? "N" : "T", "N", &ni, &mi, &ki, &one, w, &lw, x, &lx, &beta, y, &ly);
}

// One thread per call of the BLAS: the tiles are what runs in parallel.
void UseOneBlasThread() {
  thread_local const bool done = [] {
    at::set_num_threads(1);
    return true;
  }();
  (void)done;
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(DType dtype, bool native_bf16)
      : Backend(dtype),
        native_bf16_(native_bf16),
        round_(dtype == DType::kBFloat16),
        kernels_(Kernels()),
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
      } else {
        kernels_.narrow(F32(src, rows[r]), B16(out, r), out.cols);
      }
    }
  }

  void ScatterRows(const Mat& src, absl::Span<const int32_t> rows, const Mat& dst) override {
    const int64_t bytes = src.cols * model::SizeOf(src.dtype);
    for (int64_t r = 0; r < src.rows; ++r) std::memcpy(dst.at(rows[r]), src.at(r), bytes);
  }

  void Linear(const Mat& x, absl::Span<const LinearJob> jobs, bool add) override {
    MakeTiles(x, jobs.size(), [&](size_t job) { return jobs[job].out.cols; }, 1);
    const float* few = FewRows(x);
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
    MakeTiles(x, 1, [&](size_t) { return out.cols; }, 2);
    const float* few = FewRows(x);
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
    const Mat q = qkv.Cols(0, width), k = qkv.Cols(width, width), v = qkv.Cols(2 * width, width);
    pool_.Run(query_tiles_.size() * heads, [&](int64_t task, int worker) {
      const QueryTile& tile = query_tiles_[task / heads];
      const int64_t col = task % heads * dim;
      Attend(q.Rows(tile.row, tile.rows).Cols(col, dim), k.Rows(tile.key, tile.keys).Cols(col, dim),
             v.Rows(tile.key, tile.keys).Cols(col, dim), /*hidden=*/0,
             out.Rows(tile.row, tile.rows).Cols(col, dim), worker);
    });
  }

  void CachedAttention(const Mat& q, const Mat& keys, const Mat& values,
                       const AttentionHeads& heads, absl::Span<const QueryRun> runs,
                       const Mat& out) override {
    const int64_t dim = heads.dim;
    const int64_t group = heads.query / heads.kv;
    query_tiles_.clear();
    splits_.clear();
    for (const QueryRun& run : runs) {
      if (run.count == 1) {
        for (int64_t key = 0; key <= run.start; key += kDecodeSplit) {
          splits_.push_back({run.begin, run.kv_begin + key,
                             std::min(kDecodeSplit, run.start + 1 - key)});
        }
        continue;
      }
      for (int64_t row = 0; row < run.count; row += kQueryTile) {
        const int64_t rows = std::min(kQueryTile, run.count - row);
        query_tiles_.push_back({run.begin + row, rows, run.kv_begin, run.start + row + rows});
      }
    }
    pool_.Run(query_tiles_.size() * heads.query, [&](int64_t task, int worker) {
      const QueryTile& tile = query_tiles_[task / heads.query];
      const int64_t head = task % heads.query;
      const int64_t kv_col = head / group * dim;
      Attend(q.Rows(tile.row, tile.rows).Cols(head * dim, dim),
             keys.Rows(tile.key, tile.keys).Cols(kv_col, dim),
             values.Rows(tile.key, tile.keys).Cols(kv_col, dim), /*hidden=*/tile.rows - 1,
             out.Rows(tile.row, tile.rows).Cols(head * dim, dim), worker);
    });
    if (!splits_.empty()) DecodeAttention(q, keys, values, heads, out);
  }

 private:
  struct Tile {
    size_t job = 0;
    int64_t row = 0, rows = 0;
    int64_t col = 0, cols = 0;
  };
  struct QueryTile {
    int64_t row = 0, rows = 0;
    int64_t key = 0, keys = 0;  // the last row sees all of them
  };
  // Keys one task of one-row attention looks at.
  struct Split {
    int64_t row = 0;
    int64_t key = 0, keys = 0;
  };

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

  // Cuts the outputs of one or more linear layers over the same x into tasks. Enough of them that
  // threads end together, large enough that the GEMM stays near its peak.
  template <typename Cols>
  void MakeTiles(const Mat& x, size_t jobs, const Cols& cols, int layers) {
    tiles_.clear();
    int64_t total = 0;
    for (size_t job = 0; job < jobs; ++job) total += cols(job);
    const int64_t wanted = pool_.threads() == 1 ? 1 : 4 * pool_.threads();
    int64_t tile_rows = x.rows, tile_cols = kTileCols;
    if (x.rows <= kFewRows) {
      const int64_t worth = CeilDiv(kGrain, std::max<int64_t>(1, x.cols * x.rows * layers));
      tile_cols = std::clamp<int64_t>(std::max(CeilDiv(total, wanted), worth), 8, kTileCols);
      tile_cols = CeilDiv(tile_cols, 8) * 8;
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
    const Mat& w = layer.weight;
    const float* bias = layer.bias.data == nullptr ? nullptr : F32(layer.bias, 0, tile.col);
    if (few != nullptr) {
      if (w.dtype == DType::kFloat32) {
        kernels_.dots_f32(few, x.cols, static_cast<int>(tile.rows), F32(w, tile.col), w.stride,
                          tile.cols, x.cols, c, ld_c);
      } else {
        kernels_.dots_bf16(few, x.cols, static_cast<int>(tile.rows), B16(w, tile.col), w.stride,
                           tile.cols, x.cols, c, ld_c);
      }
      if (bias == nullptr) return;
      for (int64_t r = 0; r < tile.rows; ++r) {
        kernels_.add(c + r * ld_c, bias, tile.cols, /*round=*/false);
      }
      return;
    }
    UseOneBlasThread();
    if (native_bf16_ && x.dtype == DType::kBFloat16 && w.dtype == DType::kBFloat16) {
      NativeProduct(x, layer, tile, c, ld_c, worker);
      return;
    }
    for (int64_t r = 0; bias != nullptr && r < tile.rows; ++r) {
      std::memcpy(c + r * ld_c, bias, tile.cols * sizeof(float));
    }
    float beta = bias == nullptr ? 0 : 1;
    const bool widen_x = x.dtype != DType::kFloat32, widen_w = w.dtype != DType::kFloat32;
    const int64_t depth = widen_x || widen_w ? kTileDepth : x.cols;
    float* wide_w = scratch_[worker].get();
    float* wide_x = wide_w + kTileCols * kTileDepth;
    for (int64_t k = 0; k < x.cols; k += depth, beta = 1) {
      const int64_t n = std::min(depth, x.cols - k);
      for (int64_t r = 0; widen_w && r < tile.cols; ++r) {
        kernels_.widen(B16(w, tile.col + r, k), wide_w + r * n, n);
      }
      for (int64_t r = 0; widen_x && r < tile.rows; ++r) {
        kernels_.widen(B16(x, tile.row + r, k), wide_x + r * n, n);
      }
      Gemm(/*plain=*/false, tile.rows, tile.cols, n, widen_x ? wide_x : F32(x, tile.row, k),
           widen_x ? n : x.stride, widen_w ? wide_w : F32(w, tile.col, k), widen_w ? n : w.stride,
           beta, c, ld_c);
    }
  }

  // Processors with bf16 multiply-add: oneDNN through ATen, rounded once with the bias inside.
  void NativeProduct(const Mat& x, const LinearLayer& layer, const Tile& tile, float* c,
                     int64_t ld_c, int worker) {
    const c10::InferenceMode inference;
    const auto bf16 = at::TensorOptions().dtype(at::kBFloat16);
    const Mat& w = layer.weight;
    auto* y = reinterpret_cast<uint16_t*>(scratch_[worker].get());
    const at::Tensor xs =
        at::from_blob(x.at(tile.row), {tile.rows, x.cols}, {x.stride, 1}, bf16);
    const at::Tensor ws =
        at::from_blob(w.at(tile.col), {tile.cols, w.cols}, {w.stride, 1}, bf16);
    at::Tensor ys = at::from_blob(y, {tile.rows, tile.cols}, bf16);
    if (layer.bias.data == nullptr) {
      at::mm_out(ys, xs, ws.t());
    } else {
      auto* bias = y + kTileRows * kTileCols;
      kernels_.narrow(F32(layer.bias, 0, tile.col), bias, tile.cols);
      at::addmm_out(ys, at::from_blob(bias, {tile.cols}, bf16), xs, ws.t());
    }
    for (int64_t r = 0; r < tile.rows; ++r) {
      kernels_.widen(y + r * tile.cols, c + r * ld_c, tile.cols);
    }
  }

  // Attention of up to kQueryTile rows: online softmax over blocks of keys, float32 throughout.
  // Row i sees all keys but the last hidden − i.
  void Attend(const Mat& q, const Mat& k, const Mat& v, int64_t hidden, const Mat& out,
              int worker) {
    UseOneBlasThread();
    const int64_t dim = q.cols;
    const float scale = Scale(dim);
    const bool wide = q.dtype == DType::kFloat32;
    float* queries = scratch_[worker].get();
    float* block_k = queries + kQueryTile * dim;
    float* block_v = block_k + kKeyTile * dim;
    float* sums = block_v + kKeyTile * dim;
    float* scores = sums + kQueryTile * dim;
    float* max = scores + kQueryTile * kKeyTile;
    float* total = max + kQueryTile;
    std::fill_n(max, q.rows, -std::numeric_limits<float>::infinity());
    std::fill_n(total, q.rows, 0.0f);
    for (int64_t r = 0; !wide && r < q.rows; ++r) {
      kernels_.widen(B16(q, r), queries + r * dim, dim);
    }
    for (int64_t key = 0; key < k.rows; key += kKeyTile) {
      const int64_t n = std::min(kKeyTile, k.rows - key);
      for (int64_t r = 0; !wide && r < n; ++r) {
        kernels_.widen(B16(k, key + r), block_k + r * dim, dim);
        kernels_.widen(B16(v, key + r), block_v + r * dim, dim);
      }
      Gemm(/*plain=*/false, q.rows, n, dim, wide ? F32(q, 0) : queries, wide ? q.stride : dim,
           wide ? F32(k, key) : block_k, wide ? k.stride : dim, 0, scores, n);
      for (int64_t r = 0; r < q.rows; ++r) {
        float* row = scores + r * n;
        const int64_t visible =
            hidden == 0 ? n : std::clamp<int64_t>(k.rows - (hidden - r) - key, 0, n);
        if (visible > 0) {
          const float rescale = kernels_.softmax_block(row, visible, scale, &max[r], &total[r]);
          if (key > 0 && rescale != 1) kernels_.scale(sums + r * dim, dim, rescale);
        }
        std::fill(row + visible, row + n, 0.0f);
      }
      Gemm(/*plain=*/true, q.rows, dim, n, scores, n, wide ? F32(v, key) : block_v,
           wide ? v.stride : dim, key > 0, sums, dim);
    }
    for (int64_t r = 0; r < q.rows; ++r) {
      kernels_.scale(sums + r * dim, dim, 1 / total[r]);
      StoreRow(sums + r * dim, out, r);
    }
  }

  // One query row a sequence: memory-bound, so each kv head's keys and values are read once for all
  // of its query heads, and long sequences are cut into splits whose softmaxes are joined after.
  void DecodeAttention(const Mat& q, const Mat& keys, const Mat& values,
                       const AttentionHeads& heads, const Mat& out) {
    const int64_t dim = heads.dim;
    const int64_t group = heads.query / heads.kv;
    const int64_t partial = group * (dim + 2);  // sums [group, dim], max [group], total [group]
    const float scale = Scale(dim);
    partials_.resize(splits_.size() * heads.kv * partial);
    const auto attend = [&](int64_t task, int worker) {
      const Split& split = splits_[task / heads.kv];
      const int64_t kv = task % heads.kv;
      float* sums = partials_.data() + task * partial;
      float* max = sums + group * dim;
      float* total = max + group;
      std::fill_n(sums, group * dim, 0.0f);
      const float* queries = F32(q, split.row, kv * group * dim);
      float* scores = scratch_[worker].get();
      if (q.dtype == DType::kBFloat16) {
        float* wide = scores + group * kDecodeSplit;
        kernels_.widen(B16(q, split.row, kv * group * dim), wide, group * dim);
        queries = wide;
        kernels_.dots_bf16(queries, dim, static_cast<int>(group), B16(keys, split.key, kv * dim),
                           keys.stride, split.keys, dim, scores, kDecodeSplit);
      } else {
        kernels_.dots_f32(queries, dim, static_cast<int>(group), F32(keys, split.key, kv * dim),
                          keys.stride, split.keys, dim, scores, kDecodeSplit);
      }
      for (int64_t g = 0; g < group; ++g) {
        float* row = scores + g * kDecodeSplit;
        max[g] = -std::numeric_limits<float>::infinity();
        total[g] = 0;
        kernels_.softmax_block(row, split.keys, scale, &max[g], &total[g]);
        if (values.dtype == DType::kBFloat16) {
          kernels_.weighted_sum_bf16(row, B16(values, split.key, kv * dim), values.stride,
                                     split.keys, dim, sums + g * dim);
        } else {
          kernels_.weighted_sum_f32(row, F32(values, split.key, kv * dim), values.stride,
                                    split.keys, dim, sums + g * dim);
        }
      }
    };
    const int64_t tasks = splits_.size() * heads.kv;
    const int64_t work = splits_.front().keys * tasks * group * dim;
    if (work < kGrain) {
      for (int64_t task = 0; task < tasks; ++task) attend(task, 0);
    } else {
      pool_.Run(tasks, attend);
    }
    for (size_t first = 0, last = 0; first < splits_.size(); first = last) {
      while (last < splits_.size() && splits_[last].row == splits_[first].row) ++last;
      for (int64_t head = 0; head < heads.query; ++head) {
        const int64_t kv = head / group, g = head % group;
        const auto part = [&](size_t split) {
          return partials_.data() + (split * heads.kv + kv) * partial;
        };
        float* sums = part(first) + g * dim;
        float max = part(first)[group * dim + g];
        float total = part(first)[group * dim + group + g];
        for (size_t split = first + 1; split < last; ++split) {
          const float other = part(split)[group * dim + g];
          const float top = std::max(max, other);
          kernels_.scale(sums, dim, std::exp(max - top));
          const float factor = std::exp(other - top);
          kernels_.weighted_sum_f32(&factor, part(split) + g * dim, dim, 1, dim, sums);
          total = total * std::exp(max - top) + part(split)[group * dim + group + g] * factor;
          max = top;
        }
        kernels_.scale(sums, dim, 1 / total);
        StoreRow(sums, out.Cols(head * dim, dim), splits_[first].row);
      }
    }
  }

  static float Scale(int64_t dim) {
    return static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  }

  const bool native_bf16_;
  const bool round_;
  const CpuKernels& kernels_;
  ThreadPool& pool_;
  std::vector<std::unique_ptr<float[]>> scratch_;  // per worker
  std::vector<Owned> owned_;
  std::vector<Tile> tiles_;
  std::vector<QueryTile> query_tiles_;
  std::vector<Split> splits_;
  std::vector<float> few_, partials_;
};

bool HasNativeBf16() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

}  // namespace

std::unique_ptr<Backend> MakeCpuBackend(DType dtype) {
  return MakeCpuBackend(dtype, HasNativeBf16());
}

std::unique_ptr<Backend> MakeCpuBackend(DType dtype, bool native_bf16) {
  return std::make_unique<CpuBackend>(dtype, native_bf16);
}

}  // namespace chord::engine
