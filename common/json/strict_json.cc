#include "common/json/strict_json.h"

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/files.h"
#include "common/base/status_macros.h"
#include "common/json/strict_dom.h"

namespace chord {
namespace {

using internal::StrictDom;
using nlohmann::json;

// Longest number or literal that any sane writer produces.
constexpr int64_t kMaxBareToken = 64;

}  // namespace

absl::Status CheckJsonBounds(absl::string_view text, const JsonLimits& limits) {
  int depth = 0;
  int64_t values = 1;
  int64_t run = 0;  // length of the current string or bare token
  bool in_string = false;
  const auto refuse = [&](size_t at, absl::string_view why) {
    return errors::CheckpointInvalid(absl::StrCat(why, " at byte ", at));
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (in_string) {
      if (c == '"') {
        in_string = false;
        run = 0;
      } else if (++run > limits.string_bytes) {
        return refuse(i, absl::StrCat("a string of more than ", limits.string_bytes, " bytes"));
      } else if (c == '\\') {
        ++i;
        ++run;
      }
      continue;
    }
    switch (c) {
      case '"':
        in_string = true;
        run = 0;
        break;
      case '{':
      case '[':
        if (++depth > limits.depth) return refuse(i, "nested too deeply");
        [[fallthrough]];
      case ',':
        if (++values > limits.values) {
          return refuse(i, absl::StrCat("more than ", limits.values, " values"));
        }
        run = 0;
        break;
      case '}':
      case ']':
        --depth;
        [[fallthrough]];
      case ':':
      case ' ':
      case '\t':
      case '\n':
      case '\r':
        run = 0;
        break;
      default:
        if (c < 0x20 || c >= 0x7f) return refuse(i, "not valid JSON");
        if (++run > kMaxBareToken) return refuse(i, "a number or word that is too long");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<json> ParseStrictJson(absl::string_view text, const JsonLimits& limits) {
  CHORD_RETURN_IF_ERROR(CheckJsonBounds(text, limits));
  json root;
  StrictDom dom(&root);
  try {
    if (!json::sax_parse(text.begin(), text.end(), &dom)) {
      return errors::CheckpointInvalid(dom.error());
    }
  } catch (const std::exception&) {
    return errors::CheckpointInvalid("not valid JSON");
  }
  if (!root.is_object()) return errors::CheckpointInvalid("must hold one JSON object");
  return root;
}

}  // namespace chord
