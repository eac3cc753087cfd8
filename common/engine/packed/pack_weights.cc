#include "common/engine/packed/pack_weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "common/base/errors.h"
#include "common/engine/cpu/cpu_kernels.h"
#include "common/engine/cpu/thread_pool.h"
#include "common/engine/cpu/widen.h"
#include "common/engine/half.h"
#include "common/engine/packed/packed_kernels.h"

namespace chord::engine {
namespace {

using model::DType;

constexpr int64_t kRegister = 16;  // what PackedKernels takes a multiple of

int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Packs the outputs of one block after another; one for each thread.
class BlockPacker {
 public:
  BlockPacker(const model::TensorView& tensor, PackedMatrix* matrix)
      : tensor_(tensor),
        matrix_(*matrix),
        shape_(matrix->header()),
        kernels_(ChoosePackedKernels()),
        row_(RoundUp(shape_.inputs, kRegister)),
        u_row_(row_.size()),
        group_scales_(shape_.groups()),
        u_(kPackedBlock * shape_.steps() * kPackedStep) {}

  // False when a weight is not finite.
  bool Pack(int64_t block) {
    const int64_t stride = shape_.steps() * kPackedStep;
    // Padding, of outputs and of inputs, stands for weights of zero.
    std::fill(u_.begin(), u_.end(), static_cast<uint8_t>(1 << (shape_.bits - 1)));
    for (int64_t lane = 0; lane < kPackedBlock; ++lane) {
      const int64_t output = block * kPackedBlock + lane;
      matrix_.output_scales()[output] = 0;
      std::fill(group_scales_.begin(), group_scales_.end(), 0.0f);
      if (output < shape_.outputs) {
        LoadRow(output);
        if (!(shape_.bits == 8 ? RoundToInt8(output) : RoundToInt4(output))) return false;
        std::memcpy(&u_[lane * stride], u_row_.data(), shape_.inputs);
      }
      if (shape_.has_group_scales) StoreGroupScales(block, lane);
    }
    matrix_.StoreBlock(block, u_.data());
    return true;
  }

 private:
  void LoadRow(int64_t output) {
    const int64_t bytes = shape_.inputs * model::SizeOf(tensor_.dtype);
    const std::byte* from = tensor_.data + output * bytes;
    if (tensor_.dtype == DType::kBFloat16) {
      Kernels().widen(reinterpret_cast<const uint16_t*>(from), row_.data(), shape_.inputs);
    } else {
      Widen(tensor_.dtype, {from, static_cast<size_t>(bytes)}, row_.data());
    }
  }

  bool RoundToInt8(int64_t output) {
    const float largest = std::fabs(kernels_.largest(row_.data(), row_.size()));
    if (!std::isfinite(largest)) return false;
    const float scale = largest < kTiny ? 0 : largest / 127;
    matrix_.output_scales()[output] = scale;
    kernels_.round_weights(row_.data(), row_.size(), scale > 0 ? 1 / scale : 0, 128, u_row_.data());
    return true;
  }

  bool RoundToInt4(int64_t output) {
    float top = 0;
    for (int64_t g = 0; g < shape_.groups(); ++g) {
      const float* group = &row_[g * shape_.group];
      const int64_t size = GroupSize(g);
      const float largest = kernels_.largest(group, size);
      if (!std::isfinite(largest)) return false;
      group_scales_[g] = kernels_.fit_int4(group, size, largest);
      top = std::max(top, std::fabs(group_scales_[g]));
    }
    // A power of two that brings the group scales into float16's better half.
    const float unit = top < kTiny ? 0 : std::ldexp(1.0f, std::ilogb(top) - 13);
    matrix_.output_scales()[output] = unit;
    for (int64_t g = 0; g < shape_.groups(); ++g) {
      float& scale = group_scales_[g];
      scale = unit > 0 ? HalfToFloat(FloatToHalf(scale / unit)) : 0;
      const float inverse = scale != 0 ? 1 / (scale * unit) : 0;
      kernels_.round_weights(&row_[g * shape_.group], GroupSize(g), inverse, 8,
                             &u_row_[g * shape_.group]);
    }
    return true;
  }

  // Whole registers: what follows the row's end is zero.
  int64_t GroupSize(int64_t g) const {
    return std::min<int64_t>(shape_.group, static_cast<int64_t>(row_.size()) - g * shape_.group);
  }

  void StoreGroupScales(int64_t block, int64_t lane) {
    for (int64_t g = 0; g < shape_.groups(); ++g) {
      matrix_.group_scales()[(block * shape_.groups() + g) * kPackedBlock + lane] =
          FloatToHalf(group_scales_[g]);
    }
  }

  // Weights so small that a scale for them would not be a normal number count as zero.
  static constexpr float kTiny = 1e-30f;

  const model::TensorView& tensor_;
  PackedMatrix& matrix_;
  const PackedHeader shape_;
  const PackedKernels& kernels_;
  std::vector<float> row_;
  std::vector<uint8_t> u_row_;
  std::vector<float> group_scales_;
  std::vector<uint8_t> u_;
};

}  // namespace

PackedHeader HeaderFor(const WeightFormat& format, int64_t outputs, int64_t inputs) {
  PackedHeader header;
  header.outputs = outputs;
  header.inputs = inputs;
  const bool int4 = format.kind == WeightFormat::Kind::kInt4;
  header.bits = int4 ? 4 : 8;
  header.group = int4 ? format.group : kActivationGroup;
  header.has_group_scales = int4;
  return header;
}

absl::StatusOr<std::shared_ptr<const PackedMatrix>> PackWeights(const model::TensorView& tensor,
                                                                int64_t outputs, int64_t inputs,
                                                                const WeightFormat& format) {
  const PackedHeader header = HeaderFor(format, outputs, inputs);
  if (absl::Status status = CheckPackedHeader(header); !status.ok()) {
    return errors::CheckpointInvalid(status.message());
  }
  const std::shared_ptr<PackedMatrix> matrix = PackedMatrix::Allocate(header);
  ThreadPool& pool = CpuThreads();
  std::vector<BlockPacker> packers(pool.threads(), BlockPacker(tensor, matrix.get()));
  std::atomic<bool> finite{true};
  pool.Run(header.blocks(), [&](int64_t block, int worker) {
    if (finite.load(std::memory_order_relaxed) && !packers[worker].Pack(block)) {
      finite.store(false, std::memory_order_relaxed);
    }
  });
  if (!finite.load()) {
    return errors::CheckpointInvalid("holds values that are not finite");
  }
  return std::shared_ptr<const PackedMatrix>(matrix);
}

}  // namespace chord::engine
