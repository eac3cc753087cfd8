// A string that knows which of its bytes a user wrote. Everything that a chat template makes of a
// message keeps that knowledge, so that special tokens are only ever found in bytes that come from
// the template itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace chord::jinja {

enum class Origin : uint8_t {
  kTemplate,  // literal text of the template, or a value that its author controls
  kUser,      // text of a request, however transformed
};

// Valid UTF-8 with an origin for each byte, stored as runs. Not thread-safe while it is changed.
class Text {
 public:
  struct Run {
    size_t end = 0;  // byte offset behind the run
    Origin origin = Origin::kTemplate;
  };

  Text() = default;
  explicit Text(std::string bytes, Origin origin = Origin::kTemplate);

  const std::string& bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  bool ascii() const { return ascii_; }  // one byte is one character
  // In order, adjacent runs differ in origin, the last one ends at size(). Empty for an empty text.
  const std::vector<Run>& runs() const { return runs_; }
  // Escaped for HTML already ("safe"): adding plain text to it escapes that text, as in Jinja.
  bool markup() const { return markup_; }
  void set_markup(bool markup) { markup_ = markup; }

  void Append(absl::string_view bytes, Origin origin);
  void Append(const Text& other) { Append(other, 0, other.size()); }
  // Bytes [begin, end) of `other`.
  void Append(const Text& other, size_t begin, size_t end);
  Text Sub(size_t begin, size_t end) const;
  Origin OriginAt(size_t byte) const;

 private:
  size_t RunAt(size_t byte) const;  // index of the run that holds the byte

  std::string bytes_;
  std::vector<Run> runs_;
  bool ascii_ = true;
  bool markup_ = false;
};

// The white space of Python's str.strip() and of \s: byte length of the character at the front (at
// the back), or 0 when it is another one.
size_t LeadingSpace(absl::string_view text);
size_t TrailingSpace(absl::string_view text);
bool IsSpace(int32_t code_point);

// Byte offset of the character `count` characters on from `at`, or size().
size_t Advance(absl::string_view text, size_t at, size_t count);
size_t CountCharacters(absl::string_view text);
// Bytes of the UTF-8 character that starts with this byte.
size_t CharacterBytes(char lead);

}  // namespace chord::jinja
