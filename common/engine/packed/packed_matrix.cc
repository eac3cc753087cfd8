#include "common/engine/packed/packed_matrix.h"

#include <sys/mman.h>

#include <cstring>
#include <limits>
#include <new>
#include <utility>
#include <vector>

#include "common/engine/half.h"

namespace chord::engine {
namespace {

constexpr int64_t kSectionAlign = 64;
constexpr int64_t kHugePage = int64_t{2} << 20;
// Keeps every size below a petabyte, so that the arithmetic of sections cannot overflow.
constexpr int64_t kMaxSide = int64_t{1} << 24;

int64_t Aligned(int64_t bytes) {
  return (bytes + kSectionAlign - 1) / kSectionAlign * kSectionAlign;
}

// Offsets of the sections in the blob.
struct Sections {
  int64_t output_scales, group_scales, zeros, order, weights, end;

  explicit Sections(const PackedHeader& h) {
    const int64_t per_group = h.blocks() * h.groups() * kPackedBlock;
    output_scales = Aligned(sizeof(PackedHeader));
    group_scales = output_scales + Aligned(h.blocks() * kPackedBlock * 4);
    zeros = group_scales + (h.has_group_scales ? Aligned(per_group * 2) : 0);
    order = zeros + (h.has_zeros ? Aligned(per_group) : 0);
    weights = order + (h.has_order ? Aligned(h.inputs * 4) : 0);
    end = weights + h.blocks() * h.steps() * h.step_bytes();
  }
};

absl::Status Invalid(absl::string_view what) { return absl::InvalidArgumentError(what); }

// A permutation of [0, inputs).
bool IsOrder(const int32_t* order, int64_t inputs) {
  std::vector<bool> seen(inputs);
  for (int64_t i = 0; i < inputs; ++i) {
    if (order[i] < 0 || order[i] >= inputs || seen[order[i]]) return false;
    seen[order[i]] = true;
  }
  return true;
}

}  // namespace

absl::Status CheckPackedHeader(const PackedHeader& h) {
  if (h.magic != PackedHeader::kMagic) return Invalid("not a packed matrix");
  if (h.version != PackedHeader::kVersion) return Invalid("a packed matrix of another version");
  if (h.outputs < 1 || h.outputs > kMaxSide || h.inputs < 1 || h.inputs > kMaxSide) {
    return Invalid("a packed matrix needs 1 to 2^24 outputs and inputs");
  }
  if (h.bits != 4 && h.bits != 8) return Invalid("a packed matrix has 4 or 8 bits");
  if (h.group < kPackedStep || h.group > kMaxPackedGroup || h.group % kPackedStep != 0) {
    return Invalid("a group of a packed matrix is a multiple of 4 inputs, at most 512");
  }
  if (h.has_group_scales > 1 || h.has_zeros > 1 || h.has_order > 1) return Invalid("unknown flag");
  if (h.source > PackedSource::kGptq) return Invalid("unknown source");
  return absl::OkStatus();
}

int64_t PackedMatrix::BlobBytes(const PackedHeader& header) { return Sections(header).end; }

PackedMatrix::PackedMatrix(absl::Span<const std::byte> blob, std::shared_ptr<void> owner)
    : blob_(blob), owner_(std::move(owner)) {
  std::memcpy(&view_.shape, blob.data(), sizeof(PackedHeader));
  const PackedHeader& h = view_.shape;
  const Sections at(h);
  const std::byte* base = blob.data();
  view_.output_scales = reinterpret_cast<const float*>(base + at.output_scales);
  if (h.has_group_scales) {
    view_.group_scales = reinterpret_cast<const uint16_t*>(base + at.group_scales);
  }
  if (h.has_zeros) view_.zeros = reinterpret_cast<const uint8_t*>(base + at.zeros);
  if (h.has_order) view_.order = reinterpret_cast<const int32_t*>(base + at.order);
  view_.weights = reinterpret_cast<const uint8_t*>(base + at.weights);
}

std::shared_ptr<PackedMatrix> PackedMatrix::Allocate(const PackedHeader& header) {
  const int64_t bytes = BlobBytes(header);
  // Pages of its own: large ones where the kernel gives them, since a decode step walks through all
  // of it.
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  if (bytes >= kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);
  std::shared_ptr<void> owner(memory, [bytes](void* p) { munmap(p, bytes); });
  std::memcpy(memory, &header, sizeof(header));
  return std::shared_ptr<PackedMatrix>(new PackedMatrix(
      {static_cast<const std::byte*>(memory), static_cast<size_t>(bytes)}, std::move(owner)));
}

absl::StatusOr<std::shared_ptr<const PackedMatrix>> PackedMatrix::Adopt(
    absl::Span<const std::byte> blob, std::shared_ptr<void> owner) {
  if (blob.size() < sizeof(PackedHeader)) return Invalid("a packed matrix is cut short");
  if (reinterpret_cast<uintptr_t>(blob.data()) % kSectionAlign != 0) {
    return Invalid("a packed matrix is not aligned");
  }
  PackedHeader header;
  std::memcpy(&header, blob.data(), sizeof(header));
  if (absl::Status status = CheckPackedHeader(header); !status.ok()) return status;
  if (static_cast<int64_t>(blob.size()) != BlobBytes(header)) {
    return Invalid("a packed matrix has another size than its header says");
  }
  std::shared_ptr<const PackedMatrix> matrix(new PackedMatrix(blob, std::move(owner)));
  if (header.has_order && !IsOrder(matrix->view().order, header.inputs)) {
    return Invalid("the order of a packed matrix's inputs is no permutation");
  }
  return matrix;
}

void PackedMatrix::StoreBlock(int64_t block, const uint8_t* u) {
  const PackedHeader& h = view_.shape;
  const int64_t steps = h.steps(), stride = steps * kPackedStep;
  auto* to = const_cast<uint8_t*>(view_.weights) + block * steps * h.step_bytes();
  for (int64_t step = 0; step < steps; ++step, u += kPackedStep, to += h.step_bytes()) {
    if (h.bits == 8) {
      for (int64_t j = 0; j < kPackedBlock; ++j) {
        std::memcpy(to + j * kPackedStep, u + j * stride, kPackedStep);
      }
      continue;
    }
    for (int64_t j = 0; j < kPackedBlock / 2; ++j) {
      const int64_t low = j / 16 * 32 + j % 16;
      uint32_t a, b;
      std::memcpy(&a, u + low * stride, sizeof(a));
      std::memcpy(&b, u + (low + 16) * stride, sizeof(b));
      a |= b << 4;
      std::memcpy(to + j * kPackedStep, &a, sizeof(a));
    }
  }
}

void PackedMatrix::Dequantize(int64_t output, float* out) const {
  const PackedHeader& h = view_.shape;
  const int64_t block = output / kPackedBlock, lane = output % kPackedBlock;
  const uint8_t* weights = view_.weights + block * h.steps() * h.step_bytes();
  for (int64_t k = 0; k < h.inputs; ++k) {
    const uint8_t* step = weights + k / kPackedStep * h.step_bytes();
    int u;
    if (h.bits == 8) {
      u = step[lane * kPackedStep + k % kPackedStep];
    } else {
      const uint8_t both = step[(lane / 32 * 16 + lane % 16) * kPackedStep + k % kPackedStep];
      u = lane % 32 < 16 ? both & 15 : both >> 4;
    }
    const int64_t at = (block * h.groups() + k / h.group) * kPackedBlock + lane;
    const int zero = view_.zeros != nullptr ? view_.zeros[at] : 1 << (h.bits - 1);
    float scale = view_.output_scales[output];
    if (view_.group_scales != nullptr) scale *= HalfToFloat(view_.group_scales[at]);
    out[view_.order != nullptr ? view_.order[k] : k] = scale * static_cast<float>(u - zero);
  }
}

}  // namespace chord::engine
