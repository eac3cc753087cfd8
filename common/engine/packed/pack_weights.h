// Floating weights -> packed ones.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "common/engine/packed/packed_matrix.h"
#include "common/engine/weight_format.h"
#include "common/model/checkpoint.h"

namespace chord::engine {

// Of what PackWeights makes of the same values; part of the name of a kept file.
inline constexpr int kPackingVersion = 1;

// The header of a matrix of that size in `format`, which must be a packed one.
PackedHeader HeaderFor(const WeightFormat& format, int64_t outputs, int64_t inputs);

// `tensor` holds outputs · inputs values, row by row: F32, BF16 or F16, aligned or not. int8: each
// output's largest value becomes ±127. int4: each group's scale is the best of a few in squares.
// Runs on the CPU's threads. The result depends on the values alone.
// CHECKPOINT_INVALID when a value is not finite; throws std::bad_alloc.
absl::StatusOr<std::shared_ptr<const PackedMatrix>> PackWeights(const model::TensorView& tensor,
                                                                int64_t outputs, int64_t inputs,
                                                                const WeightFormat& format);

}  // namespace chord::engine
