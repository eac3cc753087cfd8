// A hostile weight file. What is accepted lies inside the file, without holes or overlaps, and
// every tensor has exactly the bytes of its shape.
#include <cstdint>
#include <cstdlib>
#include <set>
#include <string>

#include "absl/types/span.h"
#include "common/base/errors.h"
#include "common/model/safetensors.h"

namespace {

void Require(bool held) {
  if (!held) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace chord::model;  // NOLINT
  const auto header =
      ParseSafetensors(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(data), size));
  if (!header.ok()) {
    Require(chord::ErrorReason(header.status()) == "CHECKPOINT_INVALID");
    return 0;
  }
  int64_t end = 0;
  std::set<std::string> names;
  for (const StoredTensor& tensor : header->tensors) {
    Require(tensor.begin == end && tensor.end >= tensor.begin);
    Require(!tensor.name.empty() && names.insert(tensor.name).second);
    if (const int64_t element = SizeOf(tensor.dtype); element > 0) {
      unsigned __int128 bytes = static_cast<unsigned __int128>(element);
      for (const int64_t dim : tensor.shape) bytes *= static_cast<unsigned __int128>(dim);
      Require(bytes == static_cast<unsigned __int128>(tensor.end - tensor.begin));
    }
    end = tensor.end;
  }
  Require(static_cast<uint64_t>(header->data_offset) + static_cast<uint64_t>(end) == size);
  return 0;
}
