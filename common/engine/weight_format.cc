#include "common/engine/weight_format.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"

namespace chord::engine {

std::string WeightFormat::ToString() const {
  switch (kind) {
    case Kind::kStored:
      return "stored";
    case Kind::kInt8:
      return "int8";
    case Kind::kInt4:
      break;
  }
  return absl::StrCat("int4-", group);
}

bool NamesWeightFormat(absl::string_view text) { return absl::StartsWith(text, "int"); }

absl::StatusOr<WeightFormat> ParseWeightFormat(absl::string_view text) {
  using Kind = WeightFormat::Kind;
  if (text == "int8") return WeightFormat{Kind::kInt8};
  if (text == "int4") return WeightFormat{Kind::kInt4, kDefaultInt4Group};
  for (const int group : {32, 64, 128}) {
    if (text == absl::StrCat("int4-", group)) return WeightFormat{Kind::kInt4, group};
  }
  return errors::ConfigInvalid(absl::StrCat(
      "dtype \"", text, "\": packed weights are int8, int4, int4-32, int4-64 or int4-128"));
}

}  // namespace chord::engine
