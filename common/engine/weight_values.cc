#include "common/engine/weight_values.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/engine/cpu/widen.h"
#include "common/engine/packed/pack_weights.h"
#include "common/engine/packed/stored_weights.h"

namespace chord::engine {

absl::StatusOr<std::vector<float>> LinearWeights(
    const model::Checkpoint& checkpoint, const std::optional<model::Quantization>& quantization,
    const WeightFormat& format, const std::string& name, int64_t out, int64_t in) {
  std::shared_ptr<const PackedMatrix> packed;
  if (quantization && IsStoredQuantized(checkpoint, name)) {
    CHORD_ASSIGN_OR_RETURN(packed, PackStoredWeights(checkpoint, *quantization, name, out, in));
  } else {
    CHORD_ASSIGN_OR_RETURN(const model::TensorView tensor,
                           checkpoint.Get(absl::StrCat(name, ".weight"), {out, in}));
    if (!format.packed()) {
      return Widen(tensor.dtype, {tensor.data, static_cast<size_t>(tensor.bytes)});
    }
    CHORD_ASSIGN_OR_RETURN(packed, PackWeights(tensor, out, in, format));
  }
  std::vector<float> values(out * in);
  for (int64_t j = 0; j < out; ++j) packed->Dequantize(j, &values[j * in]);
  return values;
}

}  // namespace chord::engine
