#include "services/gateway/http/urlencoded.h"

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/errors.h"

namespace chord::gateway {
namespace {

std::string Decode(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escape = text[i] == '%' && i + 2 < text.size() &&
                        absl::ascii_isxdigit(static_cast<unsigned char>(text[i + 1])) &&
                        absl::ascii_isxdigit(static_cast<unsigned char>(text[i + 2]));
    if (escape) {
      out += absl::HexStringToBytes(text.substr(i + 1, 2));
      i += 2;
    } else {
      out += text[i] == '+' ? ' ' : text[i];
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseUrlencoded(
    absl::string_view body, size_t max_fields) {
  std::vector<std::pair<std::string, std::string>> out;
  for (absl::string_view field : absl::StrSplit(body, '&', absl::SkipEmpty())) {
    if (out.size() >= max_fields) {
      return errors::BodyMalformed(absl::StrCat("at most ", max_fields, " fields"));
    }
    const std::pair<absl::string_view, absl::string_view> halves =
        absl::StrSplit(field, absl::MaxSplits('=', 1));
    out.emplace_back(Decode(halves.first), Decode(halves.second));
  }
  return out;
}

}  // namespace chord::gateway
