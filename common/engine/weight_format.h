// In what form the matrices of a model are kept in memory, apart from what it computes in.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord::engine {

struct WeightFormat {
  enum class Kind {
    kStored,  // as the checkpoint has them: floating types in place, AWQ and GPTQ as they are
    kInt8,    // packed at load, one scale for each output
    kInt4,    // packed at load, one scale for each output and `group` inputs
  };
  Kind kind = Kind::kStored;
  int group = 64;  // of kInt4: 32, 64 or 128

  bool packed() const { return kind != Kind::kStored; }
  // "stored", "int8", "int4-64".
  std::string ToString() const;
  bool operator==(const WeightFormat&) const = default;
};

inline constexpr int kDefaultInt4Group = 32;

// "int8", "int4" (groups of kDefaultInt4Group), "int4-32", "int4-64", "int4-128". CONFIG_INVALID
// lists them.
absl::StatusOr<WeightFormat> ParseWeightFormat(absl::string_view text);

// True when `text` is meant for ParseWeightFormat and not for ParseDType.
bool NamesWeightFormat(absl::string_view text);

// Where packed weights are kept between starts (packed/packed_cache.h).
struct PackedCacheOptions {
  std::string dir;  // empty: they are not kept
  int64_t max_bytes = int64_t{20} << 30;
};

}  // namespace chord::engine
