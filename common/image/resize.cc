// The two 8-bit antialiased bicubic resamplers of spec §2.4 and §2.5. They share everything but
// the precision of their weights and one rule about tall images.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/image/preprocess.h"

// One inner loop, compiled for plain x86-64 and for AVX2, chosen when the program starts.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define CHORD_MULTIVERSION __attribute__((target_clones("avx2", "default")))
#else
#define CHORD_MULTIVERSION
#endif

namespace chord::image {
namespace {

// Weights of one axis: output i is the sum of `taps` inputs from lo[i] on.
struct Axis {
  int taps = 0;  // the most any output needs; unused ones are zero
  int precision = 0;
  std::vector<int> lo;
  std::vector<int> count;
  std::vector<int32_t> weights;  // [outputs, taps]
};

// Horner form and constants as in the reference: the last bit matters.
double Bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

int TorchPrecision(double largest) {
  int precision = 0;
  while (precision < 22 && static_cast<int>(0.5 + largest * (1 << (precision + 1))) < (1 << 15)) {
    ++precision;
  }
  return precision;
}

Axis MakeAxis(int in, int out, ResizeMode mode) {
  const double scale = static_cast<double>(in) / out;
  const double filter_scale = std::max(scale, 1.0);
  const double support = 2 * filter_scale;
  const double inverse = 1 / filter_scale;
  Axis axis;
  axis.taps = static_cast<int>(std::ceil(support)) * 2 + 1;
  axis.lo.resize(out);
  axis.count.resize(out);
  std::vector<double> weights(size_t{1} * out * axis.taps);
  double largest = 0;
  for (int i = 0; i < out; ++i) {
    const double centre = (i + 0.5) * scale;
    const int lo = std::max(0, static_cast<int>(centre - support + 0.5));
    const int hi = std::min(in, static_cast<int>(centre + support + 0.5));
    double* w = &weights[size_t{1} * i * axis.taps];
    double sum = 0;
    for (int j = 0; j < hi - lo; ++j) {
      w[j] = Bicubic((j + lo - centre + 0.5) * inverse);
      sum += w[j];
    }
    for (int j = 0; j < hi - lo; ++j) {
      if (sum != 0) w[j] /= sum;
      largest = std::max(largest, w[j]);
    }
    axis.lo[i] = lo;
    axis.count[i] = hi - lo;
  }
  axis.precision = mode == ResizeMode::kPillow ? 22 : TorchPrecision(largest);
  const double one = 1 << axis.precision;
  axis.weights.resize(weights.size());
  std::transform(weights.begin(), weights.end(), axis.weights.begin(), [one](double w) {
    return static_cast<int32_t>(w < 0 ? w * one - 0.5 : w * one + 0.5);
  });
  return axis;
}

// Rows worked on together in the horizontal pass, and the bytes of one column of such a band.
constexpr int kBand = 16;
constexpr int kLanes = 3 * kBand;

// Sixteen rows of sixteen bytes, turned. Each round interleaves row i with row i + 8; after four of
// them rows have become columns.
using Bytes16 = uint8_t __attribute__((vector_size(16)));
inline void Turn16(const uint8_t* in, size_t in_stride, uint8_t* out, size_t out_stride) {
  static_assert(kBand == 16);
  Bytes16 a[16], b[16];
  for (int i = 0; i < 16; ++i) std::memcpy(&a[i], in + i * in_stride, 16);
  const auto interleave = [](const Bytes16* from, Bytes16* to) {
    for (int i = 0; i < 8; ++i) {
      to[2 * i] = __builtin_shufflevector(from[i], from[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20,
                                          5, 21, 6, 22, 7, 23);
      to[2 * i + 1] = __builtin_shufflevector(from[i], from[i + 8], 8, 24, 9, 25, 10, 26, 11, 27,
                                              12, 28, 13, 29, 14, 30, 15, 31);
    }
  };
  interleave(a, b);
  interleave(b, a);
  interleave(a, b);
  interleave(b, a);
  for (int i = 0; i < 16; ++i) std::memcpy(out + i * out_stride, &a[i], 16);
}

// kBand rows of `bytes` bytes to `bytes` columns of kBand, and back.
void RowsToColumns(const uint8_t* rows, size_t bytes, uint8_t* columns) {
  size_t i = 0;
  for (; i + 16 <= bytes; i += 16) Turn16(rows + i, bytes, columns + i * kBand, kBand);
  for (; i < bytes; ++i) {
    for (int r = 0; r < kBand; ++r) columns[i * kBand + r] = rows[r * bytes + i];
  }
}
void ColumnsToRows(const uint8_t* columns, size_t bytes, uint8_t* rows) {
  size_t i = 0;
  for (; i + 16 <= bytes; i += 16) Turn16(columns + i * kBand, kBand, rows + i, bytes);
  for (; i < bytes; ++i) {
    for (int r = 0; r < kBand; ++r) rows[r * bytes + i] = columns[i * kBand + r];
  }
}

// out[lane] = round(Σ_t weights[t] · in[t·stride + lane]) for kLanes neighbouring bytes. Both
// passes come down to this: neighbours share their weights, so nothing is shuffled.
inline void WeighLanes(const uint8_t* in, size_t stride, const int32_t* weights, int count,
                       int precision, uint8_t* out) {
  int32_t sum[kLanes];
  for (int i = 0; i < kLanes; ++i) sum[i] = 1 << (precision - 1);
  for (int t = 0; t < count; ++t) {
    const int32_t w = weights[t];
    const uint8_t* p = in + t * stride;
    for (int i = 0; i < kLanes; ++i) sum[i] += w * p[i];
  }
  for (int i = 0; i < kLanes; ++i) {
    out[i] = static_cast<uint8_t>(std::clamp(sum[i] >> precision, 0, 255));
  }
}

// One row of the vertical pass: `bytes` neighbours of `count` rows.
CHORD_MULTIVERSION void VerticalRow(const uint8_t* in, size_t stride, const int32_t* weights,
                                    int count, int precision, size_t bytes, uint8_t* out) {
  size_t at = 0;
  for (; at + kLanes <= bytes; at += kLanes) {
    WeighLanes(in + at, stride, weights, count, precision, out + at);
  }
  for (; at < bytes; ++at) {
    int32_t sum = 1 << (precision - 1);
    for (int t = 0; t < count; ++t) sum += weights[t] * in[at + t * stride];
    out[at] = static_cast<uint8_t>(std::clamp(sum >> precision, 0, 255));
  }
}

// One band of the horizontal pass, transposed: byte (x, channel, row) at kLanes·x + kBand·channel +
// row, so that a column's kLanes bytes share their weight.
CHORD_MULTIVERSION void HorizontalBand(const uint8_t* in, const Axis& axis, int out_width,
                                       uint8_t* out) {
  for (int x = 0; x < out_width; ++x) {
    WeighLanes(in + size_t{kLanes} * axis.lo[x], kLanes, &axis.weights[size_t{1} * x * axis.taps],
               axis.count[x], axis.precision, out + size_t{kLanes} * x);
  }
}

RgbImage Vertical(const RgbImage& in, int height, ResizeMode mode) {
  const Axis axis = MakeAxis(in.height, height, mode);
  const size_t stride = size_t{3} * in.width;
  RgbImage out{in.width, height, {}};
  out.rgb.resize(stride * height);
  for (int y = 0; y < height; ++y) {
    VerticalRow(in.rgb.data() + axis.lo[y] * stride, stride,
                &axis.weights[size_t{1} * y * axis.taps], axis.count[y], axis.precision, stride,
                out.rgb.data() + y * stride);
  }
  return out;
}

RgbImage Horizontal(const RgbImage& in, int width, ResizeMode mode) {
  const Axis axis = MakeAxis(in.width, width, mode);
  const size_t in_stride = size_t{3} * in.width;
  const size_t out_stride = size_t{3} * width;
  RgbImage out{width, in.height, {}};
  out.rgb.resize(out_stride * in.height);
  std::vector<uint8_t> before(kBand * in_stride);
  std::vector<uint8_t> after(kBand * out_stride);
  std::vector<uint8_t> rest;
  for (int y = 0; y < in.height; y += kBand) {
    const uint8_t* from = in.rgb.data() + y * in_stride;
    uint8_t* to = out.rgb.data() + y * out_stride;
    const int rows = in.height - y;
    if (rows >= kBand) {
      RowsToColumns(from, in_stride, before.data());
      HorizontalBand(before.data(), axis, width, after.data());
      ColumnsToRows(after.data(), out_stride, to);
      continue;
    }
    rest.resize(kBand * std::max(in_stride, out_stride));  // the last band, filled up
    std::memcpy(rest.data(), from, rows * in_stride);
    RowsToColumns(rest.data(), in_stride, before.data());
    HorizontalBand(before.data(), axis, width, after.data());
    ColumnsToRows(after.data(), out_stride, rest.data());
    std::memcpy(to, rest.data(), rows * out_stride);
  }
  return out;
}

}  // namespace

RgbImage Resize(const RgbImage& image, Size size, ResizeMode mode) {
  const bool across = size.width != image.width;
  const bool down = size.height != image.height;
  if (!across && !down) return image;
  if (!across) return Vertical(image, size.height, mode);
  if (!down) return Horizontal(image, size.width, mode);
  // Pillow >= 12.2 turns the order round for very tall images that become lower.
  const bool tall = mode == ResizeMode::kPillow && image.height > int64_t{100} * image.width &&
                    size.height < image.height;
  return tall ? Horizontal(Vertical(image, size.height, mode), size.width, mode)
              : Vertical(Horizontal(image, size.width, mode), size.height, mode);
}

}  // namespace chord::image
