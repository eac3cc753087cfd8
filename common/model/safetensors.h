// The safetensors container: 8 bytes little-endian N, N bytes of JSON, the data (spec §9.3).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace chord::model {

enum class DType { kFloat32, kBFloat16, kFloat16, kInt64, kInt32, kOther };
int64_t SizeOf(DType dtype);               // bytes of one element; 0 for kOther
absl::string_view DTypeName(DType dtype);  // as safetensors writes it: "F32", "BF16", …
inline bool IsFloat(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kBFloat16 || dtype == DType::kFloat16;
}

struct StoredTensor {
  std::string name;
  DType dtype = DType::kOther;
  std::vector<int64_t> shape;
  int64_t begin = 0;  // bytes from the start of the data
  int64_t end = 0;
};

struct SafetensorsHeader {
  int64_t data_offset = 0;            // of the data in the file
  std::vector<StoredTensor> tensors;  // in the order of their data: no holes, no overlaps
};

// Checks everything of spec §9.3 against the whole file. Memory stays within a small multiple of
// what a sane header of that many tensors takes, whatever the file claims. CHECKPOINT_INVALID names
// the tensor.
absl::StatusOr<SafetensorsHeader> ParseSafetensors(absl::Span<const std::byte> file);

// Writes tensors as safetensors, row-major, no holes, sorted as the reference library does; via a
// temporary name and rename, so that a failure leaves no file. A device or a pipe is written to.
struct NamedTensor {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  absl::Span<const std::byte> data;  // not owned; SizeOf(dtype) × product of shape bytes
};
// FILE_NOT_WRITTEN: two tensors of one name, sizes that disagree, kOther, or the system's refusal.
absl::Status WriteSafetensors(const std::string& path, absl::Span<const NamedTensor> tensors);

}  // namespace chord::model
