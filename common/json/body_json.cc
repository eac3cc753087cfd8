#include "common/json/body_json.h"

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/json/strict_dom.h"

namespace chord {

absl::StatusOr<nlohmann::json> ParseBodyJson(absl::string_view body, const BodyJsonLimits& limits) {
  // The parser takes a NUL for the end of the text and would look at nothing after it.
  if (const size_t nul = body.find('\0'); nul != absl::string_view::npos) {
    return errors::JsonMalformed(absl::StrCat("a NUL byte at byte ", nul));
  }
  nlohmann::json root;
  internal::StrictDom dom(&root, limits.depth, limits.values);
  try {
    if (!nlohmann::json::sax_parse(body.begin(), body.end(), &dom)) {
      return errors::JsonMalformed(dom.error());
    }
  } catch (const nlohmann::json::exception&) {
    return errors::JsonMalformed("not valid JSON");
  }
  return root;
}

}  // namespace chord
