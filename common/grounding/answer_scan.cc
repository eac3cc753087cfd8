#include "common/grounding/answer_scan.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "common/grounding/json_objects.h"
#include "common/grounding/tagged_objects.h"
#include "common/text/ascii.h"

namespace chord::grounding::internal {

using text::IsBlank;
using text::IsDigit;
using text::IsWordByte;

bool IsBetweenCoordinates(char c) {
  return IsBlank(c) || c == ',' || c == '(' || c == ')' || c == '[' || c == ']';
}

bool ReadNumber(absl::string_view text, size_t at, Number& out) {
  size_t end = at;
  if (end < text.size() && (text[end] == '-' || text[end] == '+')) ++end;
  const size_t digits = end;
  text = text.substr(0, std::min(text.size(), at + kMaxNumberBytes + 1));
  while (end < text.size() && (IsDigit(text[end]) || text[end] == '.')) ++end;
  if (end == digits) return false;
  if (end < text.size() && (text[end] == 'e' || text[end] == 'E')) {
    size_t exponent = end + 1;
    if (exponent < text.size() && (text[exponent] == '-' || text[exponent] == '+')) ++exponent;
    if (exponent < text.size() && IsDigit(text[exponent])) {
      end = exponent;
      while (end < text.size() && IsDigit(text[end])) ++end;
    }
  }
  if (end - at > kMaxNumberBytes || (end < text.size() && IsWordByte(text[end]))) return false;
  absl::string_view token = text.substr(at, end - at);
  absl::ConsumePrefix(&token, "+");
  out = {0, at, end};
  return absl::SimpleAtod(token, &out.value) && std::isfinite(out.value);
}

Scan ScanAnswer(absl::string_view text) {
  Scan scan;
  JsonObjects json(text, &scan);
  TaggedObjects tags(text, &scan);
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == '{' || c == '[') {
      at = json.Read(at);
    } else if (c == '<') {
      at = tags.Read(at);
    } else {
      ++at;
    }
  }
  tags.Finish();
  std::stable_sort(scan.found.begin(), scan.found.end(),
                   [](const Found& a, const Found& b) { return a.object.begin < b.object.begin; });
  return scan;
}

std::vector<bool> FirstOccurrences(const Scan& scan) {
  absl::flat_hash_set<std::tuple<double, double, double, double, absl::string_view>> seen;
  std::vector<bool> first;
  for (const Found& found : scan.found) {
    const image::BoxF& b = found.object.box;
    first.push_back(seen.emplace(b.x1, b.y1, b.x2, b.y2, found.object.label).second);
  }
  return first;
}

}  // namespace chord::grounding::internal
