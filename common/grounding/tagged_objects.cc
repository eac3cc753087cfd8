#include "common/grounding/tagged_objects.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "common/text/ascii.h"

namespace chord::grounding::internal {

using text::IsBlank;

bool TaggedObjects::Take(absl::string_view tag) {
  if (!absl::StartsWith(text_.substr(at_), tag)) return false;
  at_ += tag.size();
  return true;
}

size_t TaggedObjects::Read(size_t begin) {
  at_ = begin;
  if (Take("<ref>") || Take("<|object_ref_start|>")) {
    ref_begin_ = begin;
    name_begin_ = at_;
    in_ref_ = true;
  } else if (Take("</ref>") || Take("<|object_ref_end|>")) {
    if (in_ref_) {
      label_ =
          std::string(absl::StripAsciiWhitespace(text_.substr(name_begin_, begin - name_begin_)));
      label_until_ = at_;
      object_begin_ = ref_begin_;
    }
    in_ref_ = false;
  } else if (Take("<box>") || Take("<|box_start|>")) {
    TaggedBox(begin);
  } else {
    ++at_;
  }
  return at_;
}

void TaggedObjects::Finish() {
  if (!in_ref_) return;
  scan_->truncated = true;
  scan_->cut = std::min(scan_->cut, ref_begin_);
}

// A name holds for the boxes that follow it with nothing but blanks and commas between.
bool TaggedObjects::LabelHolds(size_t begin) const {
  if (label_until_ == kNone) return false;
  for (size_t i = label_until_; i < begin; ++i) {
    if (!IsBlank(text_[i]) && text_[i] != ',') return false;
  }
  return true;
}

void TaggedObjects::TaggedBox(size_t begin) {
  const size_t inside = at_;
  std::array<Number, 4> n;
  size_t count = 0, i = at_;
  while (i < text_.size() && i - inside < 8 * kMaxNumberBytes) {
    const char c = text_[i];
    if (count < 4 && ReadNumber(text_, i, n[count])) {
      i = n[count++].end;
    } else if (IsBetweenCoordinates(c)) {
      ++i;
    } else {
      break;
    }
  }
  const absl::string_view rest = text_.substr(i);
  size_t close = 0;
  for (const absl::string_view tag : {"</box>", "<|box_end|>"}) {
    if (absl::StartsWith(rest, tag)) {
      close = tag.size();
    } else if (absl::StartsWith(tag, rest)) {  // the text ends here, or within the closing tag
      scan_->truncated = true;
      scan_->cut = std::min(scan_->cut, LabelHolds(begin) ? object_begin_ : begin);
      at_ = text_.size();
      return;
    }
  }
  if (close == 0 || count != 4) return;  // prose that looks like a tag
  at_ = i + close;
  Found found{{}, Form::kTag};
  found.object.box = {n[0].value, n[1].value, n[2].value, n[3].value};
  found.object.begin = begin;
  if (LabelHolds(begin)) {
    found.object.label = label_;
    found.object.begin = object_begin_;
    label_until_ = object_begin_ = at_;
  } else {
    label_until_ = kNone;
  }
  found.object.end = at_;
  found.object.coords_begin = n[0].begin;
  found.object.coords_end = n[3].end;
  scan_->found.push_back(std::move(found));
}

}  // namespace chord::grounding::internal
