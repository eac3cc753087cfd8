// A list of prompts, as `chord ground --prompts FILE` reads it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord::cli {

struct ListedPrompt {
  std::string category = {};  // of its boxes in an export; empty: the model's labels
  std::string prompt = {};
  std::vector<std::string> labels = {};  // instead of a prompt; a list in a file has none
};

inline constexpr size_t kMaxListedPrompts = 1000;
inline constexpr int64_t kMaxPromptListBytes = 64LL << 20;  // of the file

// One prompt a line, in UTF-8, at most kMaxListedPrompts of them and each of at most
// limits::kCeilingPromptBytes; "CATEGORY<tab>PROMPT" names the category as well. Blank lines and
// lines that begin with '#' are skipped. CONFIG_INVALID names the line.
absl::StatusOr<std::vector<ListedPrompt>> ParsePromptList(absl::string_view text);

}  // namespace chord::cli
