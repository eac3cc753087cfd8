// Weights from the host to the device, rounded on the host to what the kernels compute in, through
// two pinned buffers, so that reading one runs beside sending the other.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/engine/cuda/memory.h"
#include "common/engine/cuda/status.h"
#include "common/engine/cuda/tower_api.h"
#include "common/engine/cuda/vision_kernels.h"

namespace chord::cuda::vision {

using Half = uint16_t;  // the bits of a bf16 or fp16 value

class WeightUpload {
 public:
  WeightUpload(HalfType type, const Stream& stream) : type_(type), stream_(stream) {
    for (Side& side : sides_) side.buffer = PinnedArray<Half>(kBufferValues);
  }
  ~WeightUpload() { cudaStreamSynchronize(stream_.get()); }
  WeightUpload(const WeightUpload&) = delete;
  WeightUpload& operator=(const WeightUpload&) = delete;

  // [rows, cols] -> [rows, out_cols], zeros on the right; 0: as wide as it is.
  DeviceArray<Half> Matrix(const HostTensor& t, int64_t out_cols = 0) {
    if (out_cols == 0) out_cols = t.cols;
    DeviceArray<Half> out(t.rows * out_cols);
    Begin(out.get());
    for (int64_t row = 0; row < t.rows; ++row) Append(&t, row, out_cols);
    Flush();
    return out;
  }

  // Rows in turn: 8 of `a`, 8 of `b`; `out_rows` of each (a multiple of 8), zeros below. A vector
  // [1, n] is seen as [n, 1].
  DeviceArray<Half> Interleave(HostTensor a, HostTensor b, int64_t out_rows) {
    for (HostTensor* t : {&a, &b}) {
      if (t->rows == 1) std::swap(t->rows, t->cols);
    }
    DeviceArray<Half> out(2 * out_rows * a.cols);
    Begin(out.get());
    for (int64_t group = 0; group < out_rows; group += 8) {
      for (const HostTensor* t : {&a, &b}) {
        for (int64_t row = group; row < group + 8; ++row) {
          Append(row < t->rows ? t : nullptr, row, a.cols);
        }
      }
    }
    Flush();
    return out;
  }

 private:
  static constexpr int64_t kBufferValues = int64_t{8} << 20;
  struct Side {
    PinnedArray<Half> buffer;
    Event sent;
    bool busy = false;
  };

  void Begin(Half* device) {
    device_ = device;
    filled_ = 0;
  }
  // One row, or zeros without a tensor.
  void Append(const HostTensor* t, int64_t row, int64_t cols) {
    if (cols > kBufferValues) throw Error(Code::kUnsupported, "a row of weights is too long");
    if (filled_ + cols > kBufferValues) Flush();
    Half* const to = sides_[side_].buffer.get() + filled_;
    const int64_t have = t == nullptr ? 0 : t->cols;
    if (t != nullptr) CopyRow(*t, row, to);
    std::fill(to + have, to + cols, Half{0});
    filled_ += cols;
  }
  void CopyRow(const HostTensor& t, int64_t row, Half* to) const {
    const Dtype own = type_ == HalfType::kBf16 ? Dtype::kBFloat16 : Dtype::kFloat16;
    const int64_t size = t.dtype == Dtype::kFloat32 ? 4 : 2;
    const auto* const from = static_cast<const std::byte*>(t.data) + row * t.cols * size;
    if (t.dtype == own) {
      std::memcpy(to, from, t.cols * size);
      return;
    }
    for (int64_t i = 0; i < t.cols; ++i) to[i] = Narrow(Widen(from + i * size, t.dtype));
  }
  static float Widen(const std::byte* at, Dtype dtype) {
    if (dtype == Dtype::kFloat32) return Read<float>(at);
    if (dtype == Dtype::kFloat16) return __half2float(Read<__half>(at));
    return __bfloat162float(Read<__nv_bfloat16>(at));
  }
  template <typename T>
  static T Read(const std::byte* at) {  // at any address
    T value;
    std::memcpy(&value, at, sizeof(value));
    return value;
  }
  Half Narrow(float x) const {
    const __nv_bfloat16 bf16 = __float2bfloat16_rn(x);
    const __half fp16 = __float2half_rn(x);
    Half bits;
    std::memcpy(&bits, type_ == HalfType::kBf16 ? static_cast<const void*>(&bf16) : &fp16, 2);
    return bits;
  }
  void Flush() {
    Side& side = sides_[side_];
    CHORD_CUDA_CHECK(cudaMemcpyAsync(device_, side.buffer.get(), filled_ * sizeof(Half),
                                     cudaMemcpyHostToDevice, stream_.get()));
    side.sent.Record(stream_);
    side.busy = true;
    device_ += filled_;
    filled_ = 0;
    side_ ^= 1;
    if (sides_[side_].busy) sides_[side_].sent.Wait();
  }

  const HalfType type_;
  const Stream& stream_;
  Side sides_[2];
  int side_ = 0;
  Half* device_ = nullptr;  // where the next flush goes
  int64_t filled_ = 0;
};

}  // namespace chord::cuda::vision
