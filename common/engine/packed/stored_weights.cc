#include "common/engine/packed/stored_weights.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/engine/cpu/thread_pool.h"
#include "common/engine/cpu/widen.h"
#include "common/engine/half.h"

namespace chord::engine {
namespace {

using model::DType;
using model::Quantization;
using model::TensorView;

// Output 8c + j of AWQ's word c is its nibble kAwqNibble[j].
constexpr int kAwqNibble[] = {0, 4, 1, 5, 2, 6, 3, 7};

// Tensors of a file need not be aligned.
uint32_t WordAt(const TensorView& tensor, int64_t index) {
  uint32_t word;
  std::memcpy(&word, tensor.data + index * 4, sizeof(word));
  return word;
}

// One layer: its tensors, checked, and how their values are found.
class StoredLayer {
 public:
  static absl::StatusOr<StoredLayer> Open(const model::Checkpoint& checkpoint,
                                          const Quantization& quantization, const std::string& name,
                                          int64_t outputs, int64_t inputs);

  absl::StatusOr<std::shared_ptr<const PackedMatrix>> Pack() const;

 private:
  StoredLayer(const Quantization& quantization, std::string name, int64_t outputs, int64_t inputs)
      : quantization_(quantization), name_(std::move(name)), outputs_(outputs), inputs_(inputs) {}

  bool awq() const { return quantization_.method == Quantization::Method::kAwq; }
  int per_word() const { return 32 / quantization_.bits; }
  uint32_t mask() const { return (1u << quantization_.bits) - 1; }

  absl::Status Invalid(absl::string_view what) const {
    return errors::CheckpointInvalid(absl::StrCat("layer ", name_, ": ", what));
  }
  absl::StatusOr<TensorView> Tensor(const model::Checkpoint& checkpoint, const char* part,
                                    DType dtype, std::vector<int64_t> shape) const;
  absl::Status ReadScales(const model::Checkpoint& checkpoint);
  absl::Status ReadOrder(const model::Checkpoint& checkpoint);

  // Integer of output and input, and zero point of output and stored group.
  int Weight(int64_t output, int64_t input) const {
    const int bits = quantization_.bits, n = per_word();
    if (awq()) {
      const uint32_t word = WordAt(qweight_, input * (outputs_ / n) + output / n);
      return word >> (bits * kAwqNibble[output % n]) & mask();
    }
    return WordAt(qweight_, input / n * outputs_ + output) >> (bits * (input % n)) & mask();
  }
  int Zero(int64_t output, int64_t group) const {
    const int bits = quantization_.bits, n = per_word();
    const uint32_t word = WordAt(qzeros_, group * (outputs_ / n) + output / n);
    if (awq()) return word >> (bits * kAwqNibble[output % n]) & mask();
    const auto stored = static_cast<int>(word >> (bits * (output % n)) & mask());
    return quantization_.zeros_less_one ? stored + 1 : stored;
  }

  void PackBlock(PackedMatrix* matrix, int64_t block, std::vector<uint8_t>* u) const;

  const Quantization quantization_;
  const std::string name_;
  const int64_t outputs_, inputs_;
  int64_t group_ = 0;  // inputs of a stored group
  TensorView qweight_, qzeros_;
  std::vector<uint16_t> scales_;  // [groups, outputs]
  std::vector<int32_t> order_;    // empty: as they come
};

absl::StatusOr<TensorView> StoredLayer::Tensor(const model::Checkpoint& checkpoint,
                                               const char* part, DType dtype,
                                               std::vector<int64_t> shape) const {
  const TensorView* tensor = checkpoint.Find(absl::StrCat(name_, part));
  if (tensor == nullptr) return Invalid(absl::StrCat("the tensor ", part, " is missing"));
  if (tensor->shape != shape) {
    return Invalid(absl::StrCat("the tensor ", part, " has another shape than config.json and its ",
                                "quantization_config say"));
  }
  const bool fits = dtype == tensor->dtype || (dtype == DType::kFloat16 && IsFloat(tensor->dtype));
  if (!fits) return Invalid(absl::StrCat("the tensor ", part, " has another type"));
  return *tensor;
}

absl::StatusOr<StoredLayer> StoredLayer::Open(const model::Checkpoint& checkpoint,
                                              const Quantization& quantization,
                                              const std::string& name, int64_t outputs,
                                              int64_t inputs) {
  StoredLayer layer(quantization, name, outputs, inputs);
  layer.group_ = quantization.group_size > 0 ? quantization.group_size : inputs;
  const int64_t n = layer.per_word();
  if (inputs % layer.group_ != 0 || outputs % n != 0 || (!layer.awq() && inputs % n != 0)) {
    return layer.Invalid("its sides are no multiples of the group size and of a word");
  }
  const int64_t groups = inputs / layer.group_;
  CHORD_ASSIGN_OR_RETURN(layer.qweight_,
                         layer.Tensor(checkpoint, ".qweight", DType::kInt32,
                                      layer.awq() ? std::vector<int64_t>{inputs, outputs / n}
                                                  : std::vector<int64_t>{inputs / n, outputs}));
  CHORD_ASSIGN_OR_RETURN(layer.qzeros_,
                         layer.Tensor(checkpoint, ".qzeros", DType::kInt32, {groups, outputs / n}));
  CHORD_RETURN_IF_ERROR(layer.ReadScales(checkpoint));
  CHORD_RETURN_IF_ERROR(layer.ReadOrder(checkpoint));
  return layer;
}

absl::Status StoredLayer::ReadScales(const model::Checkpoint& checkpoint) {
  CHORD_ASSIGN_OR_RETURN(const TensorView tensor, Tensor(checkpoint, ".scales", DType::kFloat16,
                                                         {inputs_ / group_, outputs_}));
  const std::vector<float> values =
      Widen(tensor.dtype, {tensor.data, static_cast<size_t>(tensor.bytes)});
  scales_.reserve(values.size());
  for (const float value : values) {
    scales_.push_back(FloatToHalf(value));
    const bool finite = (scales_.back() & 0x7C00) != 0x7C00;
    if (!finite || HalfToFloat(scales_.back()) != value) {
      return Invalid("a scale is not a finite float16 value");
    }
  }
  return absl::OkStatus();
}

// g_idx names the group of each input. Inputs of one group come to stand together; in a file
// without activation order they already do.
absl::Status StoredLayer::ReadOrder(const model::Checkpoint& checkpoint) {
  if (awq() || !checkpoint.Has(absl::StrCat(name_, ".g_idx"))) return absl::OkStatus();
  CHORD_ASSIGN_OR_RETURN(const TensorView g_idx,
                         Tensor(checkpoint, ".g_idx", DType::kInt32, {inputs_}));
  const int64_t groups = inputs_ / group_;
  std::vector<std::vector<int32_t>> members(groups);
  bool in_order = true;
  for (int64_t k = 0; k < inputs_; ++k) {
    const auto group = static_cast<int32_t>(WordAt(g_idx, k));
    if (group < 0 || group >= groups) return Invalid("g_idx names a group that there is none of");
    members[group].push_back(static_cast<int32_t>(k));
    in_order = in_order && group == k / group_;
  }
  if (in_order) return absl::OkStatus();
  for (const std::vector<int32_t>& group : members) {
    if (static_cast<int64_t>(group.size()) != group_) {
      return Invalid("g_idx makes groups of other sizes than group_size");
    }
    order_.insert(order_.end(), group.begin(), group.end());
  }
  return absl::OkStatus();
}

void StoredLayer::PackBlock(PackedMatrix* matrix, int64_t block, std::vector<uint8_t>* u) const {
  const PackedHeader& shape = matrix->header();
  const int64_t stride = shape.steps() * kPackedStep;
  u->assign(kPackedBlock * stride, 0);
  for (int64_t lane = 0; lane < kPackedBlock; ++lane) {
    const int64_t output = block * kPackedBlock + lane;
    const bool real = output < outputs_;
    matrix->output_scales()[output] = real ? 1 : 0;
    for (int64_t g = 0; g < shape.groups(); ++g) {
      const int64_t at = (block * shape.groups() + g) * kPackedBlock + lane;
      const int64_t stored = g * shape.group / group_;
      matrix->group_scales()[at] = real ? scales_[stored * outputs_ + output] : uint16_t{0};
      matrix->zeros()[at] = static_cast<uint8_t>(real ? Zero(output, stored) : 0);
    }
    for (int64_t k = 0; real && k < inputs_; ++k) {
      (*u)[lane * stride + k] =
          static_cast<uint8_t>(Weight(output, order_.empty() ? k : order_[k]));
    }
  }
  matrix->StoreBlock(block, u->data());
}

absl::StatusOr<std::shared_ptr<const PackedMatrix>> StoredLayer::Pack() const {
  PackedHeader header;
  header.outputs = outputs_;
  header.inputs = inputs_;
  header.bits = quantization_.bits;
  header.group = static_cast<int32_t>(std::min<int64_t>(group_, kActivationGroup));
  header.has_group_scales = header.has_zeros = 1;
  header.has_order = !order_.empty();
  header.source = awq() ? PackedSource::kAwq : PackedSource::kGptq;
  // A group of the whole row may be cut anywhere, others where they end.
  if (group_ != inputs_ && group_ % header.group != 0) {
    return Invalid("groups of more than 128 inputs must be a multiple of 128");
  }
  header.group = (header.group + 3) / 4 * 4;
  if (absl::Status status = CheckPackedHeader(header); !status.ok()) {
    return Invalid(status.message());
  }
  for (int64_t i = 0; i < inputs_ / group_ * outputs_; ++i) {
    if (Zero(i % outputs_, i / outputs_) > 255) return Invalid("a zero point is more than 255");
  }
  const std::shared_ptr<PackedMatrix> matrix = PackedMatrix::Allocate(header);
  std::copy(order_.begin(), order_.end(), matrix->order());
  ThreadPool& pool = CpuThreads();
  std::vector<std::vector<uint8_t>> scratch(pool.threads());
  pool.Run(header.blocks(),
           [&](int64_t block, int worker) { PackBlock(matrix.get(), block, &scratch[worker]); });
  return std::shared_ptr<const PackedMatrix>(matrix);
}

}  // namespace

bool IsStoredQuantized(const model::Checkpoint& checkpoint, const std::string& name) {
  return checkpoint.Has(absl::StrCat(name, ".qweight"));
}

absl::StatusOr<std::shared_ptr<const PackedMatrix>> PackStoredWeights(
    const model::Checkpoint& checkpoint, const Quantization& quantization, const std::string& name,
    int64_t outputs, int64_t inputs) {
  CHORD_ASSIGN_OR_RETURN(const StoredLayer layer,
                         StoredLayer::Open(checkpoint, quantization, name, outputs, inputs));
  return layer.Pack();
}

}  // namespace chord::engine
