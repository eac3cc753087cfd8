// What the two models need of a device: memory, and a dozen operations on matrices in it. The
// models are written once over this interface; CpuBackend has our own kernels, and gives every row
// the same bits whatever rows come with it; TorchBackend composes ATen operators and serves CUDA.
//
// Every operation rounds where the reference implementation rounds in the compute dtype (spec §4.4,
// §4.5, §4.9) and accumulates in float32. Operations may return before the device has finished;
// Download waits. Not thread-safe. Failures are exceptions (bad_alloc, c10::Error), turned into
// status at the models' public methods (torch_guard.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/engine/device.h"
#include "common/engine/language_model.h"
#include "common/engine/packed/packed_matrix.h"
#include "common/model/checkpoint.h"

namespace chord::engine {

// A row-major view into a backend's memory; row r begins r·stride elements after `data`.
struct Mat {
  std::byte* data = nullptr;
  model::DType dtype = model::DType::kFloat32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  std::byte* at(int64_t row, int64_t col = 0) const {
    return data + (row * stride + col) * model::SizeOf(dtype);
  }
  Mat Rows(int64_t begin, int64_t count) const { return {at(begin), dtype, count, cols, stride}; }
  Mat Cols(int64_t begin, int64_t count) const {
    return {at(0, begin), dtype, rows, count, stride};
  }
};

// y = x·weightᵀ + bias. weight [out, in]; bias [1, out], or without data. With `packed`, which the
// CPU's backend takes, that is the weight and `weight` is empty; x is then quantised on the way.
struct LinearLayer {
  Mat weight;
  Mat bias;
  std::shared_ptr<const PackedMatrix> packed = nullptr;
};

// Consecutive rows that attend to each other and to nothing else.
struct Segment {
  int64_t begin = 0;
  int64_t length = 0;
};

// Consecutive query rows of one sequence. Row begin + i sees the sequence's KV rows [0, start + i],
// its own included; KV row j is row j % kKvPageTokens of page pages[j / kKvPageTokens].
struct QueryRun {
  int64_t begin = 0;
  int64_t count = 0;
  int64_t start = 0;
  absl::Span<const int32_t> pages;  // not owned; enough for start + count rows
};

struct AttentionHeads {
  int query = 0;
  int kv = 0;
  int64_t dim = 0;
};

// Keys and values of one layer: pages of kKvPageTokens rows, each row kv·dim values. How a page
// lies in memory is the backend's own affair. kInt8: one float32 scale per row and kv head.
struct KvCache {
  int64_t pages = 0;
  AttentionHeads heads;
  KvType type = KvType::kModel;
  std::byte* keys = nullptr;
  std::byte* values = nullptr;
  std::byte* key_scales = nullptr;  // of kInt8 alone
  std::byte* value_scales = nullptr;
};

class Backend {
 public:
  // `dtype`: what the model computes in. Device and dtype come from ParseDevice and ParseDType.
  static std::unique_ptr<Backend> Create(const Device& device, model::DType dtype);
  virtual ~Backend() = default;

  model::DType dtype() const { return dtype_; }

  // Bytes of the keys and values of all pages of one layer.
  int64_t KvBytes(int64_t pages, const AttentionHeads& heads, KvType type) const {
    const int64_t element = type == KvType::kInt8 ? 1 : model::SizeOf(dtype_);
    const int64_t scale = type == KvType::kInt8 ? sizeof(float) : 0;
    return 2 * pages * kKvPageTokens * heads.kv * (heads.dim * element + scale);
  }

  // Zeroed memory that lives as long as the backend; of the compute dtype unless another dtype is
  // given.
  virtual Mat Allocate(int64_t rows, int64_t cols, model::DType dtype) = 0;
  Mat Allocate(int64_t rows, int64_t cols) { return Allocate(rows, cols, dtype_); }
  // Zeroed memory with an owner of its own. Thread-safe.
  struct Owned {
    Mat mat;
    std::shared_ptr<void> memory;
  };
  virtual Owned AllocateOwned(int64_t rows, int64_t cols, model::DType dtype) = 0;

  // Tensors of a checkpoint, which must outlive the backend. A matrix is used where it lies when
  // the device can compute from it, else converted once, rounded to the compute dtype.
  virtual Mat AdoptMatrix(const model::TensorView& tensor, int64_t rows, int64_t cols) = 0;
  virtual Mat AdoptVector(const model::TensorView& tensor, int64_t size) = 0;
  // A matrix that only GatherRows reads; the CPU takes it as it lies in any floating type.
  virtual Mat AdoptTable(const model::TensorView& tensor, int64_t rows, int64_t cols) {
    return AdoptMatrix(tensor, rows, cols);
  }

  // Host float32 rows -> dst, converted. dst row r is host row rows[r]; no `rows`: r itself.
  virtual void Upload(const float* host, int64_t host_stride, absl::Span<const int32_t> rows,
                      const Mat& dst) = 0;
  // Host elements -> elements [first, first + count) of the dense matrix `dst`. Thread-safe and
  // complete on return.
  virtual void UploadFlat(const float* host, int64_t first, int64_t count, const Mat& dst) = 0;
  // src as float32 [rows, cols] dense, complete on return.
  virtual void DownloadFloat(const Mat& src, float* host) = 0;
  // src row r -> dense host row rows[r], bits unchanged, complete on return.
  virtual void DownloadRows(const Mat& src, absl::Span<const int32_t> rows, std::byte* host) = 0;

  // out[r] = src[rows[r]], converted to out's dtype; rows[r] = -1 leaves out[r] alone.
  virtual void GatherRows(const Mat& src, absl::Span<const int32_t> rows, const Mat& out) = 0;

  // out = x·Wᵀ + b, rounded once; `add`: out += that, rounded again.
  struct LinearJob {
    const LinearLayer* layer = nullptr;
    Mat out;
  };
  virtual void Linear(const Mat& x, absl::Span<const LinearJob> jobs, bool add) = 0;
  void Linear(const Mat& x, const LinearLayer& layer, const Mat& out) {
    const LinearJob job{&layer, out};
    Linear(x, absl::MakeConstSpan(&job, 1), /*add=*/false);
  }
  void LinearAdd(const Mat& x, const LinearLayer& layer, const Mat& out) {
    const LinearJob job{&layer, out};
    Linear(x, absl::MakeConstSpan(&job, 1), /*add=*/true);
  }
  // out = silu(gate(x)) · up(x).
  virtual void GatedLinear(const Mat& x, const LinearLayer& gate, const LinearLayer& up,
                           const Mat& out) = 0;
  virtual void RmsNorm(const Mat& x, const Mat& weight, float eps, const Mat& out) = 0;
  virtual void Gelu(const Mat& x) = 0;  // in place, the exact one

  // Rotates x [n, heads·dim] in place; cos, sin float32 [n, dim/2]. `round_each`: products and sum
  // are rounded to the compute dtype one by one (language model), else the result is (vision).
  virtual void Rotate(const Mat& x, int heads, const Mat& cos, const Mat& sin, bool round_each) = 0;

  // out [n, heads·dim] from qkv [n, 3·heads·dim]; bidirectional within each segment.
  virtual void SegmentAttention(const Mat& qkv, int heads, absl::Span<const Segment> segments,
                                const Mat& out) = 0;

  // Zeroed pages that live as long as the backend.
  virtual KvCache AllocateKv(int64_t pages, const AttentionHeads& heads, KvType type) = 0;
  // Rows of k and v [n, kv·dim] -> KV row rows[r] % kKvPageTokens of page rows[r] / kKvPageTokens.
  virtual void StoreKv(const Mat& k, const Mat& v, absl::Span<const int32_t> rows,
                       const KvCache& cache) = 0;
  // The first `rows` rows of page `from` -> those of page `to`.
  virtual void CopyKvPage(const KvCache& cache, int32_t from, int32_t to, int64_t rows) = 0;
  // out [n, query·dim] from q of the same shape.
  virtual void CachedAttention(const Mat& q, const KvCache& cache, absl::Span<const QueryRun> runs,
                               const Mat& out) = 0;

 protected:
  explicit Backend(model::DType dtype) : dtype_(dtype) {}
  model::DType dtype_;
};

// A matrix that keeps its memory from call to call and grows when a call needs more rows.
class Workspace {
 public:
  Workspace() = default;
  Workspace(Backend* backend, int64_t cols, model::DType dtype)
      : backend_(backend), cols_(cols), dtype_(dtype) {}
  Workspace(Backend* backend, int64_t cols) : Workspace(backend, cols, backend->dtype()) {}

  Mat Take(int64_t rows) {
    if (rows > owned_.mat.rows) {
      owned_ = {};  // before the new one, so that both never exist at once
      owned_ = backend_->AllocateOwned(rows, cols_, dtype_);
    }
    return owned_.mat.Rows(0, rows);
  }
  void Release() { owned_ = {}; }

 private:
  Backend* backend_ = nullptr;
  int64_t cols_ = 0;
  model::DType dtype_ = model::DType::kFloat32;
  Backend::Owned owned_;
};

}  // namespace chord::engine
