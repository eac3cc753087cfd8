// Internal to common/grounding: objects between tags.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"
#include "common/grounding/answer_scan.h"

namespace chord::grounding::internal {

// <box>(x1,y1),(x2,y2)</box> and the special tokens <|box_start|>...<|box_end|>, each with or
// without a name in <ref> or <|object_ref_start|> before it.
class TaggedObjects {
 public:
  // Writes what it finds to `scan`; both outlive this.
  TaggedObjects(absl::string_view text, Scan* scan) : text_(text), scan_(scan) {}

  // Reads the tag at `begin`, or the one character that is no tag. Returns where to go on.
  size_t Read(size_t begin);
  // The text is at its end.
  void Finish();

 private:
  static constexpr size_t kNone = absl::string_view::npos;

  bool Take(absl::string_view tag);
  bool LabelHolds(size_t begin) const;
  void TaggedBox(size_t begin);

  const absl::string_view text_;
  Scan* const scan_;
  size_t at_ = 0;
  bool in_ref_ = false;
  size_t ref_begin_ = 0, name_begin_ = 0, object_begin_ = 0;
  size_t label_until_ = kNone;
  std::string label_;
};

}  // namespace chord::grounding::internal
