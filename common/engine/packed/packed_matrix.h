// Weights of a linear layer as integers of 4 or 8 bits with scales.
//
// A weight is unsigned: of output j and input k it is u, and its value is
//
//   output_scale[j] · group_scale[g, j] · (u − zero[g, j]),   g = position of k / group
//
// with group_scale = 1 where the matrix has none, and zero = 2^(bits − 1) where it has none. Where
// there are group scales, output_scale is a power of two, so that the product of both is exact.
//
// Layout of the blob, which is also that of the file cache: a PackedHeader, then the sections, each
// at a multiple of 64 bytes. Outputs are cut into blocks of 64, the last one padded; inputs into
// steps of 4, the last one padded. A weight byte of a padding input meets an activation of zero.
//
//   output_scales  float32 [blocks, 64]
//   group_scales   float16 [blocks, groups, 64]
//   zeros          uint8   [blocks, groups, 64]
//   order          int32   [inputs]: the input that stands at each position (GPTQ's act order)
//   weights        8 bits: uint8 [blocks, steps, 64, 4]: the four inputs of a step side by side
//                  4 bits: uint8 [blocks, steps, 2, 16, 4]: plane p holds output 32p + c in the low
//                  half of a byte and output 32p + 16 + c in the high half
//
// So a register of 64 bytes is 16 outputs times 4 inputs, which is what VNNI multiplies at once,
// and a block is one stream of memory from its first step to its last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace chord::engine {

inline constexpr int64_t kPackedBlock = 64;  // outputs
inline constexpr int64_t kPackedStep = 4;    // inputs
// Inputs that share one activation scale where the weights have no groups.
inline constexpr int kActivationGroup = 128;
// Bounds of a sum of products in 32 bits and of its exactness in float32.
inline constexpr int kMaxPackedGroup = 512;

enum class PackedSource : uint32_t { kFloat = 0, kAwq = 1, kGptq = 2 };

struct PackedHeader {
  static constexpr uint32_t kMagic = 0x4B504843;  // "CHPK", little endian
  static constexpr uint32_t kVersion = 1;

  uint32_t magic = kMagic;
  uint32_t version = kVersion;
  int64_t outputs = 0;
  int64_t inputs = 0;
  int32_t bits = 8;   // 4 or 8
  int32_t group = 0;  // inputs of a group: a multiple of kPackedStep, at most kMaxPackedGroup
  uint8_t has_group_scales = 0;
  uint8_t has_zeros = 0;
  uint8_t has_order = 0;
  uint8_t unused[5] = {};
  PackedSource source = PackedSource::kFloat;
  uint32_t reserved[4] = {};

  int64_t blocks() const { return (outputs + kPackedBlock - 1) / kPackedBlock; }
  int64_t steps() const { return (inputs + kPackedStep - 1) / kPackedStep; }
  int64_t groups() const { return (inputs + group - 1) / group; }
  int64_t step_bytes() const { return kPackedBlock * kPackedStep * bits / 8; }
};
static_assert(sizeof(PackedHeader) == 64);

// OK when every field is in range and the blob's size can be computed. INVALID_ARGUMENT says which
// is not.
absl::Status CheckPackedHeader(const PackedHeader& header);

// What kernels read. Pointers into a blob, not owned; null where the matrix lacks the section.
struct PackedView {
  PackedHeader shape;
  const float* output_scales = nullptr;
  const uint16_t* group_scales = nullptr;
  const uint8_t* zeros = nullptr;
  const int32_t* order = nullptr;
  const uint8_t* weights = nullptr;
};

// Immutable once filled; then safe to read from any thread.
class PackedMatrix {
 public:
  // Memory of its own, contents undefined apart from the header. Throws std::bad_alloc.
  // `header` must be valid.
  static std::shared_ptr<PackedMatrix> Allocate(const PackedHeader& header);
  // A blob that something else owns, as a mapped file; `owner` keeps it alive. `blob` must lie at a
  // multiple of 64 bytes. INVALID_ARGUMENT when header, size or order do not fit.
  static absl::StatusOr<std::shared_ptr<const PackedMatrix>> Adopt(absl::Span<const std::byte> blob,
                                                                   std::shared_ptr<void> owner);
  static int64_t BlobBytes(const PackedHeader& header);

  const PackedHeader& header() const { return view_.shape; }
  const PackedView& view() const { return view_; }
  absl::Span<const std::byte> blob() const { return blob_; }
  int64_t outputs() const { return view_.shape.outputs; }
  int64_t inputs() const { return view_.shape.inputs; }

  // For filling an allocated matrix.
  float* output_scales() { return const_cast<float*>(view_.output_scales); }
  uint16_t* group_scales() { return const_cast<uint16_t*>(view_.group_scales); }
  uint8_t* zeros() { return const_cast<uint8_t*>(view_.zeros); }
  int32_t* order() { return const_cast<int32_t*>(view_.order); }
  // Puts a whole block: `u` is [64, steps · 4], one byte a weight, padding included.
  void StoreBlock(int64_t block, const uint8_t* u);

  // Row `output` as float32 [inputs], in the order of the checkpoint's inputs: the product of
  // scales and (u − zero), each factor exact, rounded once.
  void Dequantize(int64_t output, float* out) const;

 private:
  PackedMatrix(absl::Span<const std::byte> blob, std::shared_ptr<void> owner);

  absl::Span<const std::byte> blob_;
  std::shared_ptr<void> owner_;
  PackedView view_;
};

}  // namespace chord::engine
