// The kernels' results in double precision, by plain loops; rounded only where the model itself
// rounds and the tests' tolerance would not cover it.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/common/engine/cuda/device_memory.h"

namespace chord::cuda {

// [rows, in]·[out, in]ᵀ
inline std::vector<float> Product(const std::vector<float>& x, const std::vector<float>& weight,
                                  int in, int out) {
  const auto rows = static_cast<int64_t>(x.size()) / in;
  std::vector<float> y(rows * out);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < out; ++o) {
      double sum = 0;
      for (int64_t i = 0; i < in; ++i) sum += double{x[r * in + i]} * weight[o * in + i];
      y[r * out + o] = static_cast<float>(sum);
    }
  }
  return y;
}

inline std::vector<float> Norm(const std::vector<float>& x, const std::vector<float>& weight,
                               double eps, int width, Dtype dtype) {
  std::vector<float> y(x.size());
  for (size_t row = 0; row < x.size(); row += width) {
    double sum = 0;
    for (int i = 0; i < width; ++i) sum += double{x[row + i]} * x[row + i];
    const double scale = 1 / std::sqrt(sum / width + eps);
    for (int i = 0; i < width; ++i) {
      y[row + i] = Rounded(double{Rounded(x[row + i] * scale, dtype)} * weight[i], dtype);
    }
  }
  return y;
}

// Groups of eight columns, four of gate and four of up -> four.
inline std::vector<float> Gated(const std::vector<float>& x, int inner, Dtype dtype) {
  std::vector<float> y;
  for (size_t row = 0; row < x.size(); row += 2 * inner) {
    for (int i = 0; i < inner; ++i) {
      const size_t at = row + i / 4 * 8 + i % 4;
      const double gate = Rounded(x[at], dtype), up = Rounded(x[at + 4], dtype);
      y.push_back(Rounded(gate / (1 + std::exp(-gate)), dtype) * static_cast<float>(up));
    }
  }
  return y;
}

inline std::vector<float> Columns(const std::vector<float>& x, int stride, int columns) {
  std::vector<float> out;
  for (size_t row = 0; row < x.size(); row += stride) {
    out.insert(out.end(), x.begin() + row, x.begin() + row + columns);
  }
  return out;
}

// A fused qkv product with everything around it, and what must come of it.
class QkvCase {
 public:
  QkvCase(Dtype dtype, const QkvShape& shape, int in, int tokens)
      : dtype_(dtype), shape_(shape), tokens_(tokens), half_(shape.dim / 2) {
    weight = Random(int64_t{shape.width()} * in, 1, dtype, 0.1f);
    bias = Random(shape.width(), 2, dtype);
    norm = Random(in, 3, dtype);
    hidden = Random(int64_t{tokens} * in, 4, dtype);
    for (int i = 0; i < kPositions * half_; ++i) {
      const double angle = (i / half_) * std::pow(10000.0, -2.0 * (i % half_) / shape.dim);
      cos_.push_back(Rounded(std::cos(angle), dtype));
      sin_.push_back(Rounded(std::sin(angle), dtype));
    }
    for (int i = 0; i < half_; ++i) axes_.push_back(i % 3);
    for (int i = 0; i < 3 * tokens; ++i) positions_.push_back((i * 17 + 5) % kPositions);
    for (int i = 0; i < tokens; ++i)
      host_slots_.push_back(i % 4 == 3 ? -1 : (i * 7 + 2) % (kPages * kPageRows));
    device_cos_ = Upload(cos_), device_sin_ = Upload(sin_), device_axes_ = Upload(axes_);
    device_positions_ = Upload(positions_), slots = Upload(host_slots_);
    const int64_t rows = int64_t{kPages} * shape.kv_heads * kPageRows;
    keys_ = Upload(std::vector<uint16_t>(rows * shape.dim, 0)),
    values_ = Upload(std::vector<uint16_t>(rows * shape.dim, 0));
    q = Poisoned(int64_t{tokens} * shape.heads * shape.dim);
  }

  Rotary rotary() const {
    return {device_cos_.get(), device_sin_.get(), device_axes_.get(), device_positions_.get(),
            tokens_};
  }
  KvPages kv() const {
    KvPages out;
    out.keys = keys_.get(), out.values = values_.get(), out.heads = shape_.kv_heads,
    out.dim = shape_.dim;
    return out;
  }

  // `products` [tokens, width] without bias, columns in the fused order.
  void Expect(const std::vector<float>& products) const {
    const int64_t rows = int64_t{kPages} * shape_.kv_heads * kPageRows;
    std::vector<float> want_q(int64_t{tokens_} * shape_.heads * shape_.dim),
        want_k(rows * shape_.dim), want_v(rows * shape_.dim);
    for (int token = 0; token < tokens_; ++token) {
      const float* row = products.data() + int64_t{token} * shape_.width();
      for (int head = 0; head < shape_.heads + 2 * shape_.kv_heads; ++head) {
        const bool value = head >= shape_.heads + shape_.kv_heads;
        for (int i = 0; i < half_; ++i) {
          // Column of the fused product that is column i of the head, and its partner's.
          const int base = head * shape_.dim;
          const int first = value ? base + i : base + i / 4 * 8 + i % 4;
          const int second = value ? base + i + half_ : first + 4;
          double a = Rounded(double{row[first]} + bias[first], dtype_);
          double b = Rounded(double{row[second]} + bias[second], dtype_);
          if (!value) {
            const int at = positions_[axes_[i] * tokens_ + token] * half_ + i;
            const double x = a * cos_[at] - b * sin_[at], y = b * cos_[at] + a * sin_[at];
            a = x, b = y;
          }
          float* to = nullptr;
          if (head < shape_.heads) {
            to = want_q.data() + (int64_t{token} * shape_.heads + head) * shape_.dim;
          } else if (const int slot = host_slots_[token]; slot >= 0) {
            const int kv_head = value ? head - shape_.heads - shape_.kv_heads : head - shape_.heads;
            to = (value ? want_v : want_k).data() +
                 ((int64_t{slot / kPageRows} * shape_.kv_heads + kv_head) * kPageRows +
                  slot % kPageRows) *
                     shape_.dim;
          }
          if (to != nullptr) to[i] = static_cast<float>(a), to[i + half_] = static_cast<float>(b);
        }
      }
    }
    const double tolerance = 2 * Tolerance(dtype_);
    EXPECT_LT(Distance(DownloadFrom(q, dtype_), want_q), tolerance)
        << Name(dtype_) << " " << tokens_;
    EXPECT_LT(Distance(DownloadFrom(keys_, dtype_), want_k), tolerance)
        << Name(dtype_) << " " << tokens_;
    EXPECT_LT(Distance(DownloadFrom(values_, dtype_), want_v), tolerance)
        << Name(dtype_) << " " << tokens_;
  }

  std::vector<float> weight, bias, norm, hidden;
  DeviceArray<uint16_t> q;
  DeviceArray<int32_t> slots;

 private:
  static constexpr int kPositions = 50, kPages = 3;
  const Dtype dtype_;
  const QkvShape shape_;
  const int tokens_, half_;
  std::vector<float> cos_, sin_;
  std::vector<int32_t> axes_, positions_, host_slots_;
  DeviceArray<float> device_cos_, device_sin_;
  DeviceArray<int32_t> device_axes_, device_positions_;
  DeviceArray<uint16_t> keys_, values_;
};

}  // namespace chord::cuda
