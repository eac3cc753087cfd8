// The `text` of an answer: what the model wrote, with its boxes in pixels of the upright image.
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/grounding/answer_parser.h"
#include "common/grounding/answer_scan.h"

namespace chord::grounding {
namespace {

using internal::Form;
using internal::Found;
using internal::Scan;

// What JSON leaves around its objects: blanks, commas, brackets, fences. Cut off the front of what
// follows an object and off the back of what precedes one.
void StripGlueFront(absl::string_view& gap) {
  for (size_t before = gap.size() + 1; gap.size() < before;) {
    before = gap.size();
    gap = absl::StripLeadingAsciiWhitespace(gap);
    for (const absl::string_view glue : {",", "]", "[", "}", "```json", "```"}) {
      absl::ConsumePrefix(&gap, glue);
    }
  }
}
void StripGlueBack(absl::string_view& gap) {
  for (size_t before = gap.size() + 1; gap.size() < before;) {
    before = gap.size();
    gap = absl::StripTrailingAsciiWhitespace(gap);
    for (const absl::string_view glue : {",", "[", "]", "```json", "```JSON", "```"}) {
      absl::ConsumeSuffix(&gap, glue);
    }
    if (!gap.empty() && gap.back() == ':') {  // {"objects":
      const size_t brace = gap.rfind('{');
      if (brace != absl::string_view::npos && gap.size() - brace < 40 &&
          gap.find_first_not_of(
              "{}\"':_ \n\tabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
              brace) == absl::string_view::npos) {
        gap = gap.substr(0, brace);
      }
    }
  }
}

class Renderer {
 public:
  explicit Renderer(absl::string_view text) : text_(text) {}

  // Appends what stands between the last object and the next, or the end.
  void Gap(size_t end, bool before_json) {
    absl::string_view gap = text_.substr(at_, end > at_ ? end - at_ : 0);
    const bool at_end = end == text_.size();
    absl::string_view front = gap;
    StripGlueFront(front);
    if (at_ > 0 && (front.empty() || front == ".")) {  // nothing but glue after an object
      out_.append(front.data(), front.size());
      return;
    }
    if (at_ > 0 && after_json_) {
      if (front.size() < gap.size()) Separate(gap.substr(0, gap.size() - front.size()));
      gap = front;
    }
    if (before_json) {
      absl::string_view back = gap;
      StripGlueBack(back);
      if (!back.empty()) was_box_ = false;
      out_.append(back.data(), back.size());
      if (!at_end && !back.empty() && back.size() < gap.size()) Separate(gap.substr(back.size()));
      return;
    }
    if (!gap.empty()) was_box_ = false;
    if (at_end) gap = absl::StripTrailingAsciiWhitespace(gap);
    out_.append(gap.data(), gap.size());
  }

  void Object(const Found& found, const image::Box* box) {
    at_ = found.object.end;
    after_json_ = found.form == Form::kJson;
    if (box == nullptr) return;
    if (was_box_) out_.append(", ");
    if (!found.object.label.empty()) absl::StrAppend(&out_, found.object.label, " ");
    absl::StrAppend(&out_, "<box>(", box->x1, ",", box->y1, "),(", box->x2, ",", box->y2,
                    ")</box>");
    was_box_ = true;
  }

  size_t at() const { return at_; }
  std::string Take() { return std::move(out_); }

 private:
  void Separate(absl::string_view stripped) {
    if (out_.empty()) return;
    out_.push_back(stripped.find('\n') == absl::string_view::npos ? ' ' : '\n');
  }

  absl::string_view text_;
  size_t at_ = 0;
  bool after_json_ = false, was_box_ = false;
  std::string out_;
};

}  // namespace

std::string RenderText(absl::string_view text, const ParsedAnswer& parsed,
                       absl::Span<const std::optional<image::Box>> boxes) {
  // Reads the text again: duplicates, which `parsed` no longer has, must vanish from it too.
  const Scan scan = internal::ScanAnswer(text);
  const std::vector<bool> first = internal::FirstOccurrences(scan);
  text = text.substr(0, scan.cut);
  Renderer renderer(text);
  size_t next = 0;
  for (size_t f = 0; f < scan.found.size(); ++f) {
    const Found& found = scan.found[f];
    const size_t i = first[f] ? next++ : boxes.size();
    const bool nested = found.object.begin < renderer.at();
    if (nested || found.object.end > text.size()) continue;
    renderer.Gap(found.object.begin, found.form == Form::kJson);
    renderer.Object(found, i < boxes.size() && boxes[i].has_value() ? &*boxes[i] : nullptr);
  }
  renderer.Gap(text.size(), /*before_json=*/scan.cut != absl::string_view::npos);
  return renderer.Take();
}

}  // namespace chord::grounding
