#include <algorithm>
#include <cstring>
#include <functional>
#include <thread>

#include "common/engine/cuda/rotary.cuh"
#include "common/engine/cuda/weights.h"

namespace chord::cuda {
namespace {

constexpr int64_t kStagingBytes = 64 << 20;

float WidenBits(uint16_t bits, Dtype dtype) {
  if (dtype == Dtype::kBFloat16) {
    const uint32_t word = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &word, sizeof(value));
    return value;
  }
  __half_raw raw;
  raw.x = bits;
  return __half2float(raw);
}

uint16_t NarrowBits(float value, Dtype dtype) {
  if (dtype == Dtype::kBFloat16) return __nv_bfloat16_raw(__float2bfloat16_rn(value)).x;
  return __half_raw(__float2half_rn(value)).x;
}

// Source of row `row` of a fused matrix: a tensor and the row in it.
struct RowSource {
  const Tensor* tensor;
  int64_t row;
};
using RowMap = std::function<RowSource(int64_t row)>;

class Loader {
 public:
  Loader(Dtype dtype, int threads, const Stream& stream)
      : dtype_(dtype), threads_(std::max(1, threads)), stream_(stream) {
    for (auto& buffer : buffers_) buffer.memory = PinnedArray<uint16_t>(kStagingBytes / 2);
  }

  Elements Vector(const Tensor& tensor, int64_t size) {
    return Matrix(1, size, [&](int64_t) { return RowSource{&tensor, 0}; });
  }
  Elements Plain(const Tensor& tensor, int64_t rows, int64_t cols) {
    return Matrix(rows, cols, [&](int64_t row) { return RowSource{&tensor, row}; });
  }
  Elements Matrix(int64_t rows, int64_t cols, const RowMap& source) {
    Elements out(rows * cols);
    const int64_t batch = std::max<int64_t>(1, buffers_[0].memory.count() / cols);
    for (int64_t first = 0; first < rows; first += batch) {
      const int64_t count = std::min(batch, rows - first);
      Buffer& buffer = buffers_[next_++ % 2];
      buffer.copied.Wait();
      if (count * cols > buffer.memory.count()) buffer.memory = PinnedArray<uint16_t>(count * cols);
      Fill(first, count, cols, source, buffer.memory.get());
      CHORD_CUDA_CHECK(cudaMemcpyAsync(out.get() + first * cols, buffer.memory.get(),
                                       count * cols * 2, cudaMemcpyHostToDevice, stream_.get()));
      buffer.copied.Record(stream_);
    }
    return out;
  }

 private:
  struct Buffer {
    PinnedArray<uint16_t> memory;
    Event copied;
  };

  void Fill(int64_t first, int64_t count, int64_t cols, const RowMap& source, uint16_t* out) const {
    const auto work = [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const RowSource from = source(first + row);
        const int64_t size = from.tensor->dtype == Dtype::kFloat32 ? 4 : 2;
        ConvertElements(static_cast<const char*>(from.tensor->data) + from.row * cols * size,
                        from.tensor->dtype, cols, dtype_, out + row * cols);
      }
    };
    const int threads = static_cast<int>(std::min<int64_t>(threads_, 1 + count * cols / (1 << 19)));
    std::vector<std::jthread> workers;
    for (int i = 1; i < threads; ++i) {
      workers.emplace_back(work, count * i / threads, count * (i + 1) / threads);
    }
    work(0, count / threads);
  }

  const Dtype dtype_;
  const int threads_;
  const Stream& stream_;
  Buffer buffers_[2];
  int next_ = 0;
};

// Row of the q, k or v tensor that row `row` of the fused product comes from.
RowSource QkvSource(const QkvShape& shape, const Tensor& q, const Tensor& k, const Tensor& v,
                    int64_t row) {
  const QkvPlace place = PlaceOf(shape, static_cast<int>(row / 8));
  const int inside = static_cast<int>(row % 8);
  const int column = inside < 4 ? place.first + inside : place.second + inside - 4;
  const Tensor& tensor = place.part == QkvPart::kQuery ? q : place.part == QkvPart::kKey ? k : v;
  return {&tensor, static_cast<int64_t>(place.head) * shape.dim + column};
}

}  // namespace

void ConvertElements(const void* values, Dtype from, int64_t count, Dtype to, uint16_t* out) {
  if (from == to) {
    std::memcpy(out, values, count * 2);
    return;
  }
  const auto* bytes = static_cast<const char*>(values);
  for (int64_t i = 0; i < count; ++i) {
    float value;
    if (from == Dtype::kFloat32) {
      std::memcpy(&value, bytes + 4 * i, 4);
    } else {
      uint16_t bits;
      std::memcpy(&bits, bytes + 2 * i, 2);
      value = WidenBits(bits, from);
    }
    out[i] = NarrowBits(value, to);
  }
}

DecoderWeights LoadWeights(const DecoderOptions& o, const DecoderTensors& tensors, int threads,
                           const Stream& stream) {
  Loader loader(o.dtype, threads, stream);
  const QkvShape shape = {o.heads, o.kv_heads, o.head_dim};
  DecoderWeights out;
  out.embedding = loader.Plain(tensors.embedding, o.vocab, o.hidden);
  out.final_norm = loader.Vector(tensors.final_norm, o.hidden);
  if (tensors.head.data != tensors.embedding.data) {
    out.head_storage = loader.Plain(tensors.head, o.vocab, o.hidden);
  }
  for (int i = 0; i < o.layers; ++i) {
    const LayerTensors& t = tensors.layers[i];
    LayerWeights layer;
    layer.input_norm = loader.Vector(t.input_norm, o.hidden);
    layer.post_norm = loader.Vector(t.post_norm, o.hidden);
    layer.qkv_weight = loader.Matrix(shape.width(), o.hidden, [&](int64_t row) {
      return QkvSource(shape, t.q_weight, t.k_weight, t.v_weight, row);
    });
    layer.qkv_bias = loader.Matrix(shape.width(), 1, [&](int64_t row) {
      return QkvSource(shape, t.q_bias, t.k_bias, t.v_bias, row);
    });
    layer.o_weight = loader.Plain(t.o_weight, o.hidden, static_cast<int64_t>(o.heads) * o.head_dim);
    layer.gate_up_weight = loader.Matrix(2LL * o.intermediate, o.hidden, [&](int64_t row) {
      const int64_t source = row / 8 * 4 + row % 4;
      return RowSource{row % 8 < 4 ? &t.gate_weight : &t.up_weight, source};
    });
    layer.down_weight = loader.Plain(t.down_weight, o.hidden, o.intermediate);
    out.layers.push_back(std::move(layer));
  }
  stream.Wait();
  return out;
}

}  // namespace chord::cuda
