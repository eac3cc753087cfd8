// Jinja source -> tokens, with the white-space rules that transformers renders with: trim_blocks
// and lstrip_blocks on, one newline at the end dropped, every kind of line end read as "\n".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord::jinja {

struct Token {
  enum Kind : uint8_t {
    kData,           // literal text, never empty
    kVariableBegin,  // {{
    kVariableEnd,
    kBlockBegin,  // {%
    kBlockEnd,
    kName,
    kInteger,
    kFloat,
    kString,  // with its quotes
    kOperator,
    kEnd,
  };
  Kind kind = kEnd;
  int32_t line = 0;        // 1-based
  absl::string_view text;  // into the source
};

// "\r\n" and "\r" become "\n"; one newline at the end is dropped.
std::string NormalizeSource(absl::string_view source);

// One pass over `source` (normalized), which must outlive the tokens. The last token is kEnd.
// InvalidArgument, with its line, for tags that do not end, characters that Jinja does not know,
// and more than `max_tokens` tokens.
absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source, size_t max_tokens);

// The value of a kString token, or of a part of it. InvalidArgument for escapes of Python that name
// no character.
absl::StatusOr<std::string> StringValue(const Token& token);

}  // namespace chord::jinja
