#include "services/gateway/http/web_assets.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace chord::gateway {

absl::string_view ContentTypeOf(absl::string_view path) {
  static constexpr std::pair<absl::string_view, absl::string_view> kTypes[] = {
      {".html", "text/html; charset=utf-8"},
      {".css", "text/css; charset=utf-8"},
      {".js", "text/javascript; charset=utf-8"},
      {".svg", "image/svg+xml"},
      {".json", "application/json"},
      {".webp", "image/webp"},
      {".png", "image/png"},
  };
  const size_t dot = path.rfind('.');
  const absl::string_view extension =
      dot == absl::string_view::npos ? absl::string_view() : path.substr(dot);
  const auto* found = std::find_if(std::begin(kTypes), std::end(kTypes),
                                   [extension](const auto& t) { return t.first == extension; });
  return found == std::end(kTypes) ? "application/octet-stream" : found->second;
}

bool MatchesEntityTag(absl::string_view if_none_match, absl::string_view etag) {
  for (absl::string_view tag : absl::StrSplit(if_none_match, ',')) {
    tag = absl::StripAsciiWhitespace(tag);
    absl::ConsumePrefix(&tag, "W/");
    if (tag == "*" || tag == etag) return true;
  }
  return false;
}

}  // namespace chord::gateway
