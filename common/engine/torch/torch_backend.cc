// Any device through ATen operators; what CUDA runs on. On the CPU it is the reference that the
// tests hold CpuBackend's kernels against.
#include "common/engine/torch/torch_backend.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "common/base/checked_math.h"
#include "common/engine/backend.h"
#include "common/engine/torch/torch_types.h"

namespace chord::engine {
namespace {

using model::DType;

class TorchBackend final : public Backend {
 public:
  TorchBackend(const Device& device, DType dtype)
      : Backend(dtype),
        device_(ToTorch(device)),
        options_(at::device(device_).dtype(ToTorch(dtype))) {}

  using Backend::Allocate;
  Mat Allocate(int64_t rows, int64_t cols, DType dtype) override {
    owned_.push_back(AllocateOwned(rows, cols, dtype));
    return owned_.back().mat;
  }

  Owned AllocateOwned(int64_t rows, int64_t cols, DType dtype) override {
    const Scope scope(device_);
    if (!CheckedMul(rows, cols) || !CheckedMul(rows * cols, model::SizeOf(dtype))) {
      throw std::bad_alloc();
    }
    auto tensor =
        std::make_shared<at::Tensor>(at::zeros({rows, cols}, options_.dtype(ToTorch(dtype))));
    auto* data = static_cast<std::byte*>(tensor->mutable_data_ptr());
    return {Mat{data, dtype, rows, cols, cols}, std::move(tensor)};
  }

  Mat AdoptMatrix(const model::TensorView& tensor, int64_t rows, int64_t cols) override {
    const Scope scope(device_);
    const Mat out = Allocate(rows, cols);
    std::vector<std::byte> aligned;
    const std::byte* data = tensor.data;
    if (reinterpret_cast<uintptr_t>(data) % model::SizeOf(tensor.dtype) != 0) {
      aligned.assign(data, data + tensor.bytes);
      data = aligned.data();
    }
    const at::Tensor host =
        at::from_blob(const_cast<std::byte*>(data), {rows, cols}, at::dtype(ToTorch(tensor.dtype)));
    // Rounded on the host: the same values whatever the device.
    View(out).copy_(host.to(ToTorch(dtype_)));
    return out;
  }

  Mat AdoptVector(const model::TensorView& tensor, int64_t size) override {
    return AdoptMatrix(tensor, 1, size);
  }

  void Upload(const float* host, int64_t host_stride, absl::Span<const int32_t> rows,
              const Mat& dst) override {
    const Scope scope(device_);
    staging_.resize(dst.rows * dst.cols);
    for (int64_t r = 0; r < dst.rows; ++r) {
      std::memcpy(staging_.data() + r * dst.cols, host + (rows.empty() ? r : rows[r]) * host_stride,
                  dst.cols * sizeof(float));
    }
    View(dst).copy_(at::from_blob(staging_.data(), {dst.rows, dst.cols}, at::dtype(at::kFloat)));
  }

  void UploadFlat(const float* host, int64_t first, int64_t count, const Mat& dst) override {
    const Scope scope(device_);
    const at::Tensor source =
        at::from_blob(const_cast<float*>(host), {count}, at::dtype(at::kFloat));
    View(dst).view({-1}).narrow(0, first, count).copy_(source);
  }

  void DownloadFloat(const Mat& src, float* host) override {
    const Scope scope(device_);
    at::from_blob(host, {src.rows, src.cols}, at::dtype(at::kFloat)).copy_(View(src));
  }

  void DownloadRows(const Mat& src, absl::Span<const int32_t> rows, std::byte* host) override {
    const Scope scope(device_);
    const at::Tensor copy = View(src).to(at::kCPU).contiguous();
    const auto* data = static_cast<const std::byte*>(copy.const_data_ptr());
    const int64_t bytes = src.cols * model::SizeOf(src.dtype);
    for (int64_t r = 0; r < src.rows; ++r) {
      std::memcpy(host + rows[r] * bytes, data + r * bytes, bytes);
    }
  }

  void GatherRows(const Mat& src, absl::Span<const int32_t> rows, const Mat& out) override {
    const Scope scope(device_);
    from_.clear();
    to_.clear();
    for (int64_t r = 0; r < out.rows; ++r) {
      if (rows[r] < 0) continue;
      from_.push_back(rows[r]);
      to_.push_back(r);
    }
    if (from_.empty()) return;
    const at::Tensor picked = View(src).index_select(0, Indices(from_)).to(ToTorch(out.dtype));
    if (static_cast<int64_t>(to_.size()) == out.rows) {
      View(out).copy_(picked);
    } else {
      View(out).index_copy_(0, Indices(to_), picked);
    }
  }

  void Linear(const Mat& x, absl::Span<const LinearJob> jobs, bool add) override {
    const Scope scope(device_);
    for (const LinearJob& job : jobs) {
      at::Tensor out = View(job.out);
      if (add) {
        out.add_(Apply(*job.layer, View(x)));
      } else if (job.layer->bias.data == nullptr) {
        at::mm_out(out, View(x), View(job.layer->weight).t());
      } else {
        at::addmm_out(out, View(job.layer->bias), View(x), View(job.layer->weight).t());
      }
    }
  }

  void GatedLinear(const Mat& x, const LinearLayer& gate, const LinearLayer& up,
                   const Mat& out) override {
    const Scope scope(device_);
    const at::Tensor input = View(x);
    at::Tensor gated = Apply(gate, input);
    at::silu_(gated);
    at::Tensor result = View(out);
    at::mul_out(result, gated, Apply(up, input));
  }

  void RmsNorm(const Mat& x, const Mat& weight, float eps, const Mat& out) override {
    const Scope scope(device_);
    const at::Tensor wide = View(x).to(at::kFloat);
    const at::Tensor variance = wide.square().mean({-1}, /*keepdim=*/true);
    const at::Tensor normed = (wide * at::rsqrt(variance + eps)).to(ToTorch(dtype_));
    at::Tensor result = View(out);
    at::mul_out(result, normed, View(weight));
  }

  void Gelu(const Mat& x) override {
    const Scope scope(device_);
    at::Tensor view = View(x);
    at::gelu_(view);
  }

  void Rotate(const Mat& x, int heads, const Mat& cos, const Mat& sin, bool round_each) override {
    const Scope scope(device_);
    const int64_t half = cos.cols;
    const at::ScalarType dtype = round_each ? ToTorch(dtype_) : at::kFloat;
    const at::Tensor pairs = Blob(x, {x.rows, heads, 2, half}, {x.stride, 2 * half, half, 1});
    at::Tensor first = pairs.select(2, 0), second = pairs.select(2, 1);
    const at::Tensor a = first.to(dtype, false, /*copy=*/true);
    const at::Tensor b = second.to(dtype, false, /*copy=*/true);
    const at::Tensor c = View(cos).to(dtype).unsqueeze(1);
    const at::Tensor s = View(sin).to(dtype).unsqueeze(1);
    first.copy_(a * c - b * s);
    second.copy_(b * c + a * s);
  }

  void SegmentAttention(const Mat& qkv, int heads, absl::Span<const Segment> segments,
                        const Mat& out) override {
    const Scope scope(device_);
    const int64_t width = out.cols, dim = width / heads;
    for (size_t i = 0, next = 0; i < segments.size(); i = next) {
      // Neighbours of one length are one batch.
      const Segment& first = segments[i];
      for (next = i + 1; next < segments.size() && segments[next].length == first.length &&
                         segments[next].begin == segments[next - 1].begin + first.length;) {
        ++next;
      }
      const int64_t count = static_cast<int64_t>(next - i);
      const auto heads_of = [&](const Mat& m) {
        return Blob(m.Rows(first.begin, count * first.length), {count, first.length, heads, dim},
                    {first.length * m.stride, m.stride, dim, 1})
            .transpose(1, 2);
      };
      heads_of(out).copy_(at::scaled_dot_product_attention(heads_of(qkv.Cols(0, width)),
                                                           heads_of(qkv.Cols(width, width)),
                                                           heads_of(qkv.Cols(2 * width, width))));
    }
  }

  KvCache AllocateKv(int64_t pages, const AttentionHeads& heads, KvType type) override {
    KvCache cache{pages, heads, type};
    const bool int8 = type == KvType::kInt8;
    const int64_t rows = pages * kKvPageTokens;
    const int64_t bytes = heads.kv * heads.dim * (int8 ? 1 : model::SizeOf(dtype_));
    // Whole pages are a multiple of 4 bytes.
    cache.keys = Allocate(rows / 4, bytes, DType::kFloat32).data;
    cache.values = Allocate(rows / 4, bytes, DType::kFloat32).data;
    if (int8) {
      cache.key_scales = Allocate(rows, heads.kv, DType::kFloat32).data;
      cache.value_scales = Allocate(rows, heads.kv, DType::kFloat32).data;
    }
    return cache;
  }

  void StoreKv(const Mat& k, const Mat& v, absl::Span<const int32_t> rows,
               const KvCache& cache) override {
    const Scope scope(device_);
    to_.assign(rows.begin(), rows.end());
    const at::Tensor index = Indices(to_);
    for (const bool keys : {true, false}) {
      const at::Tensor source = View(keys ? k : v).view({k.rows, cache.heads.kv, cache.heads.dim});
      at::Tensor stored = Stored(cache, keys).flatten(0, 1);
      if (cache.type == KvType::kModel) {
        stored.index_copy_(0, index, source);
        continue;
      }
      const at::Tensor wide = source.to(at::kFloat);
      const at::Tensor scale = wide.abs().amax({-1}, /*keepdim=*/true) / 127;
      stored.index_copy_(0, index, (wide / scale.clamp_min(1e-30)).round().to(at::kChar));
      Scales(cache, keys).flatten(0, 1).index_copy_(0, index, scale);
    }
  }

  void CopyKvPage(const KvCache& cache, int32_t from, int32_t to, int64_t rows) override {
    const Scope scope(device_);
    const auto copy = [&](const at::Tensor& pages) {
      pages.select(0, to).narrow(0, 0, rows).copy_(pages.select(0, from).narrow(0, 0, rows));
    };
    for (const bool keys : {true, false}) {
      copy(Stored(cache, keys));
      if (cache.type == KvType::kInt8) copy(Scales(cache, keys));
    }
  }

  void CachedAttention(const Mat& q, const KvCache& cache, absl::Span<const QueryRun> runs,
                       const Mat& out) override {
    const Scope scope(device_);
    const AttentionHeads& heads = cache.heads;
    for (const QueryRun& run : runs) {
      const int64_t length = run.start + run.count;
      const auto query_heads = [&](const Mat& m) {
        return Blob(m.Rows(run.begin, run.count), {1, run.count, heads.query, heads.dim},
                    {0, m.stride, heads.dim, 1})
            .transpose(1, 2);
      };
      const int64_t pages = (length + kKvPageTokens - 1) / kKvPageTokens;
      from_.assign(run.pages.begin(), run.pages.begin() + pages);
      const at::Tensor index = Indices(from_);
      at::Tensor k = Gather(cache, /*keys=*/true, index, length);
      at::Tensor v = Gather(cache, /*keys=*/false, index, length);
      const bool causal = run.count > 1 && run.start == 0;
      std::optional<at::Tensor> mask;
      if (run.count > 1 && run.start > 0) {
        mask = at::ones({run.count, length}, options_.dtype(at::kBool)).tril(run.start);
      }
      // Kernels that share kv heads among query heads take half precision and no mask; the others
      // would fall back to whole score matrices, so they get the heads spelled out.
      const bool shared = !mask && device_.is_cuda() && dtype_ != DType::kFloat32;
      if (!shared && heads.query != heads.kv) {
        k = Repeat(k, heads.query / heads.kv);
        v = Repeat(v, heads.query / heads.kv);
      }
      query_heads(out).copy_(at::scaled_dot_product_attention(
          query_heads(q), k, v, mask, 0.0, causal, std::nullopt, /*enable_gqa=*/shared));
    }
  }

 private:
  struct Scope {
    explicit Scope(at::Device device) : device_guard(device) {}
    c10::InferenceMode inference;
    c10::OptionalDeviceGuard device_guard;
  };

  at::Tensor Blob(const Mat& m, at::IntArrayRef sizes, at::IntArrayRef strides) const {
    return at::for_blob(m.data, sizes)
        .strides(strides)
        .options(options_.dtype(ToTorch(m.dtype)))
        .target_device(device_)
        .make_tensor();
  }
  at::Tensor Blob(std::byte* data, at::ScalarType dtype, at::IntArrayRef sizes) const {
    return at::for_blob(data, sizes)
        .options(options_.dtype(dtype))
        .target_device(device_)
        .make_tensor();
  }
  at::Tensor View(const Mat& m) const { return Blob(m, {m.rows, m.cols}, {m.stride, 1}); }

  // [pages, kKvPageTokens, kv, dim]
  at::Tensor Stored(const KvCache& cache, bool keys) const {
    const auto dtype = cache.type == KvType::kInt8 ? at::kChar : ToTorch(dtype_);
    return Blob(keys ? cache.keys : cache.values, dtype,
                {cache.pages, kKvPageTokens, cache.heads.kv, cache.heads.dim});
  }
  // [pages, kKvPageTokens, kv, 1]
  at::Tensor Scales(const KvCache& cache, bool keys) const {
    return Blob(keys ? cache.key_scales : cache.value_scales, at::kFloat,
                {cache.pages, kKvPageTokens, cache.heads.kv, 1});
  }
  // The first `length` rows of the pages of `index`, as [1, kv, length, dim] of the compute dtype.
  at::Tensor Gather(const KvCache& cache, bool keys, const at::Tensor& index,
                    int64_t length) const {
    at::Tensor rows = Stored(cache, keys).index_select(0, index);
    if (cache.type == KvType::kInt8) {
      rows = (rows.to(at::kFloat) * Scales(cache, keys).index_select(0, index)).to(ToTorch(dtype_));
    }
    return rows.flatten(0, 1).narrow(0, 0, length).unsqueeze(0).transpose(1, 2);
  }
  static at::Tensor Repeat(const at::Tensor& x, int64_t times) {
    return x.unsqueeze(2)
        .expand({x.size(0), x.size(1), times, x.size(2), x.size(3)})
        .reshape({x.size(0), x.size(1) * times, x.size(2), x.size(3)});
  }

  at::Tensor Apply(const LinearLayer& layer, const at::Tensor& x) const {
    if (layer.bias.data == nullptr) return at::mm(x, View(layer.weight).t());
    return at::addmm(View(layer.bias), x, View(layer.weight).t());
  }

  at::Tensor Indices(std::vector<int64_t>& rows) const {
    return at::from_blob(rows.data(), {static_cast<int64_t>(rows.size())}, at::dtype(at::kLong))
        .to(device_);
  }

  const at::Device device_;
  const at::TensorOptions options_;
  std::vector<Owned> owned_;
  std::vector<float> staging_;
  std::vector<int64_t> from_, to_;
};

}  // namespace

std::unique_ptr<Backend> MakeTorchBackend(const Device& device, DType dtype) {
  return std::make_unique<TorchBackend>(device, dtype);
}

}  // namespace chord::engine
