// Python's string operations on text with origins: what is taken from a user's text stays a user's.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/jinja/runtime.h"
#include "common/jinja/text.h"

namespace chord::jinja {

enum class Case { kUpper, kLower, kCapitalize, kPythonTitle, kJinjaTitle };
Text ChangeCase(const Text& text, Case to);
bool IsLowerCase(const Text& text);  // str.islower()
bool IsUpperCase(const Text& text);

// str.strip: white space, or the characters of `chars` when it is not null.
Text Strip(const Text& text, const Text* chars, bool left, bool right);

// At most `limit` splits, -1 for all. Without a separator: at runs of white space.
std::vector<Text> SplitAtSpace(const Text& text, int64_t limit);
std::vector<Text> SplitAt(const Text& text, absl::string_view separator, int64_t limit);
std::vector<Text> SplitLines(const Text& text);

// `limit` -1: all. An empty `from` is found around every character, as in Python.
absl::StatusOr<Text> Replace(Runtime& runtime, const Text& text, const Text& from, const Text& to,
                             int64_t limit);
Text Reverse(const Text& text);
// & < > " ' as entities; text that is markup already stays.
Text EscapeHtml(const Text& text);

}  // namespace chord::jinja
