#include "common/grounding/points.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/text/ascii.h"

namespace chord::grounding {
namespace {

constexpr size_t kMaxNumberBytes = 32;
constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxElementBytes = 16 << 10;  // of one <points …>…</points>

struct Number {
  double value = 0;
  size_t begin = 0, end = 0;
};

// The finite decimal number that starts at text[at]; false when there is none.
bool ReadNumber(absl::string_view text, size_t at, Number& out) {
  size_t end = at;
  if (end < text.size() && text[end] == '-') ++end;
  while (end < text.size() && end - at <= kMaxNumberBytes &&
         (absl::ascii_isdigit(static_cast<unsigned char>(text[end])) || text[end] == '.')) {
    ++end;
  }
  out = {0, at, end};
  return end - at <= kMaxNumberBytes && absl::SimpleAtod(text.substr(at, end - at), &out.value) &&
         std::isfinite(out.value);
}

std::string CleanLabel(absl::string_view label) {
  return std::string(absl::StripAsciiWhitespace(label));
}

// A JSON string with its quotes -> its text; the bytes themselves where it is not well-formed.
std::string Unquote(absl::string_view quoted) {
  const auto json = nlohmann::json::parse(quoted, nullptr, /*allow_exceptions=*/false);
  return CleanLabel(json.is_string() ? json.get<std::string>()
                                     : std::string(quoted.substr(1, quoted.size() - 2)));
}

bool IsPointKey(absl::string_view key) {
  return key == "point_2d" || key == "point" || key == "points_2d" || key == "points";
}
bool IsLabelKey(absl::string_view key) {
  return key == "label" || key == "name" || key == "category" || key == "object";
}

// One pass; every byte is read at most twice.
class PointScanner {
 public:
  explicit PointScanner(absl::string_view text) : text_(text) {}

  std::vector<RawPoint> Run() {
    while (at_ < text_.size()) {
      switch (text_[at_]) {
        case '{':
          if (open_.size() < kMaxDepth) open_.push_back({at_, "", {}});
          ++at_;
          break;
        case '}':
          ++at_;
          Close();
          break;
        case '"':
          QuotedText();
          break;
        case '<':
          Element();
          break;
        default:
          ++at_;
      }
    }
    return Deduplicated();
  }

 private:
  struct Object {
    size_t begin;
    std::string label;
    std::vector<std::pair<Number, Number>> pairs;
  };

  void SkipBlanks() {
    while (at_ < text_.size() && text::IsBlank(text_[at_])) ++at_;
  }

  // From the quote at at_ to behind the closing one, with quotes; empty, and at_ one further, when
  // the string does not end on its line.
  absl::string_view TakeString() {
    const size_t open = at_;
    for (size_t i = open + 1; i < text_.size() && text_[i] != '\n'; ++i) {
      if (text_[i] == '\\') {
        ++i;
      } else if (text_[i] == '"') {
        at_ = i + 1;
        return text_.substr(open, at_ - open);
      }
    }
    // No string of this line ends: none is looked for again.
    const size_t line = text_.find('\n', open);
    at_ = line == absl::string_view::npos ? text_.size() : line;
    return {};
  }

  // A key with a value that matters, or any other string, which is skipped.
  void QuotedText() {
    if (open_.empty()) {
      ++at_;
      return;
    }
    const absl::string_view quoted = TakeString();
    if (quoted.empty()) return;
    SkipBlanks();
    if (at_ == text_.size() || text_[at_] != ':') return;
    ++at_;
    SkipBlanks();
    const std::string key =
        absl::AsciiStrToLower(quoted.substr(1, quoted.size() - 2).substr(0, 16));
    if (IsPointKey(key)) {
      Pairs();
    } else if (IsLabelKey(key) && at_ < text_.size() && text_[at_] == '"') {
      const absl::string_view label = TakeString();
      if (!label.empty() && open_.back().label.empty()) open_.back().label = Unquote(label);
    }
  }

  // [x, y], ["x", "y"], "x, y" or a list of such lists, into the open object.
  void Pairs() {
    std::vector<Number> group;
    int depth = 0;
    const auto flush = [&] {
      if (group.size() == 2 && pairs_ < kMaxPoints) {
        open_.back().pairs.emplace_back(group[0], group[1]);
        ++pairs_;
      }
      group.clear();
    };
    const bool bare = at_ < text_.size() && text_[at_] == '"';
    while (at_ < text_.size()) {
      const char c = text_[at_];
      Number number;
      if (ReadNumber(text_, at_, number)) {
        group.push_back(number);
        if (group.size() > 2) return;  // a box, or something else
        at_ = number.end;
        continue;
      }
      if (c == '[') {
        if (!group.empty() || ++depth > 2) return;
      } else if (c == ']') {
        flush();
        if (--depth <= 0) {
          ++at_;
          return;
        }
      } else if (c == '"' && bare && !group.empty()) {
        ++at_;
        return flush();
      } else if (!text::IsBlank(c) && c != ',' && c != '"') {
        return;
      }
      ++at_;
    }
  }

  void Close() {
    if (open_.empty()) return;
    Object object = std::move(open_.back());
    open_.pop_back();
    for (const auto& [x, y] : object.pairs) {
      Add({x.value, y.value, object.label, object.begin, at_, x.begin, y.end});
    }
  }

  // <points x1="…" y1="…" alt="…">label</points>
  void Element() {
    const size_t begin = at_;
    const absl::string_view rest = text_.substr(at_, kMaxElementBytes);
    ++at_;
    const size_t name = absl::StartsWith(rest, "<points ")  ? 8
                        : absl::StartsWith(rest, "<point ") ? 7
                                                            : 0;
    if (name == 0) return;
    const size_t head_end = rest.find('>');
    const size_t tail =
        head_end == absl::string_view::npos ? head_end : rest.find("</point", head_end);
    const size_t close = tail == absl::string_view::npos ? tail : rest.find('>', tail);
    if (close == absl::string_view::npos) return;
    std::string label = CleanLabel(rest.substr(head_end + 1, tail - head_end - 1));
    const size_t end = begin + close + 1;
    std::vector<Number> numbers;  // in order: x1, y1, x2, y2, …
    for (size_t at = name; at < head_end;) {
      const size_t equals = rest.find("=\"", at);
      if (equals >= head_end) break;
      const size_t value = equals + 2, quote = rest.find('"', value);
      if (quote >= head_end) break;
      const absl::string_view attribute = absl::StripAsciiWhitespace(rest.substr(at, equals - at));
      Number number;
      if (attribute == "alt") {
        label = CleanLabel(rest.substr(value, quote - value));
      } else if (!attribute.empty() && attribute[0] == (numbers.size() % 2 == 0 ? 'x' : 'y') &&
                 ReadNumber(text_, begin + value, number)) {
        numbers.push_back(number);
      }
      at = quote + 1;
    }
    for (size_t i = 0; i + 1 < numbers.size(); i += 2) {
      Add({numbers[i].value, numbers[i + 1].value, label, begin, end, numbers[i].begin,
           numbers[i + 1].end});
    }
    at_ = end;
  }

  void Add(RawPoint point) {
    if (points_.size() < kMaxPoints) points_.push_back(std::move(point));
  }

  std::vector<RawPoint> Deduplicated() {
    std::stable_sort(points_.begin(), points_.end(), [](const RawPoint& a, const RawPoint& b) {
      return a.coords_begin < b.coords_begin;
    });
    absl::flat_hash_set<std::tuple<double, double, std::string>> seen;
    std::vector<RawPoint> out;
    for (RawPoint& point : points_) {
      if (seen.emplace(point.x, point.y, point.label).second) out.push_back(std::move(point));
    }
    return out;
  }

  const absl::string_view text_;
  size_t at_ = 0;
  size_t pairs_ = 0;
  std::vector<Object> open_;
  std::vector<RawPoint> points_;
};

// What JSON leaves around its objects.
absl::string_view WithoutGlue(absl::string_view gap) {
  for (size_t before = gap.size() + 1; gap.size() < before;) {
    before = gap.size();
    gap = absl::StripAsciiWhitespace(gap);
    for (const absl::string_view glue : {",", "[", "]", "```json", "```"}) {
      absl::ConsumePrefix(&gap, glue);
      absl::ConsumeSuffix(&gap, glue);
    }
  }
  return gap;
}

void AppendSeparated(absl::string_view part, absl::string_view separator, std::string& out) {
  if (part.empty()) return;
  if (!out.empty()) absl::StrAppend(&out, separator);
  absl::StrAppend(&out, part);
}

}  // namespace

std::vector<RawPoint> ParsePoints(absl::string_view text) { return PointScanner(text).Run(); }

std::optional<PixelPoint> ToUpright(const RawPoint& point, const image::FramePlan& plan) {
  const auto map = [](double value, int from, int to, int& out) {
    if (from < 1 || to < 1 || !(value >= 0 && value <= from)) return false;
    out = std::min(static_cast<int>(std::floor(value * to / from)), to - 1);
    return true;
  };
  PixelPoint out;
  if (!map(point.x, plan.resized.width, plan.upright.width, out.x) ||
      !map(point.y, plan.resized.height, plan.upright.height, out.y)) {
    return std::nullopt;
  }
  return out;
}

double PointConfidence(const RawPoint& point, absl::string_view text, const TokenRecord& record) {
  const auto& ends = record.token_ends;
  if (ends.size() != record.log_probabilities.size() || ends.empty() ||
      !std::is_sorted(ends.begin(), ends.end()) || ends.front() < 0 ||
      ends.back() > static_cast<int64_t>(text.size()) ||
      (!record.forced.empty() && record.forced.size() != ends.size())) {
    return 0;
  }
  size_t i = static_cast<size_t>(
      std::upper_bound(ends.begin(), ends.end(), static_cast<int64_t>(point.coords_begin)) -
      ends.begin());
  double sum = 0;
  int count = 0;
  for (; i < ends.size(); ++i) {
    const int64_t from = i == 0 ? 0 : ends[i - 1];
    if (from >= static_cast<int64_t>(point.coords_end)) break;
    if (from == ends[i] || (!record.forced.empty() && record.forced[i])) continue;
    sum += std::min(record.log_probabilities[i], 0.0);
    ++count;
  }
  const double mean = count == 0 ? 0 : std::exp(sum / count);
  return std::isfinite(mean) ? mean : 0;
}

std::string RenderPoints(absl::string_view text, absl::Span<const RawPoint> points,
                         absl::Span<const std::optional<PixelPoint>> places) {
  std::string out;
  size_t at = 0;
  for (size_t i = 0; i < points.size() && i < places.size(); ++i) {
    const RawPoint& point = points[i];
    if (point.begin >= at) {
      AppendSeparated(WithoutGlue(text.substr(at, point.begin - at)), "\n", out);
    }
    at = std::max(at, point.end);
    if (!places[i]) continue;
    const std::string label = point.label.empty() ? "" : absl::StrCat(point.label, " ");
    const bool follows = absl::EndsWith(out, "</point>");
    AppendSeparated(absl::StrCat(label, "<point>(", places[i]->x, ",", places[i]->y, ")</point>"),
                    follows ? ", " : "\n", out);
  }
  AppendSeparated(WithoutGlue(text.substr(at)), "\n", out);
  return out;
}

}  // namespace chord::grounding
