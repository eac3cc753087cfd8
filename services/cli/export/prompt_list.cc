#include "services/cli/export/prompt_list.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/text/utf8.h"

namespace chord::cli {
namespace {

absl::Status LineInvalid(size_t line, absl::string_view what) {
  return errors::ConfigInvalid(absl::StrCat("Line ", line, " of the list of prompts ", what));
}

}  // namespace

absl::StatusOr<std::vector<ListedPrompt>> ParsePromptList(absl::string_view text) {
  absl::ConsumePrefix(&text, "\xEF\xBB\xBF");  // the mark that some editors write
  std::vector<ListedPrompt> out;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    const size_t tab = line.find('\t');
    ListedPrompt listed;
    if (tab != absl::string_view::npos) {
      listed.category = std::string(absl::StripAsciiWhitespace(line.substr(0, tab)));
      line = absl::StripAsciiWhitespace(line.substr(tab + 1));
    }
    listed.prompt = std::string(line);
    if (listed.prompt.find('\t') != std::string::npos) {
      return LineInvalid(number, "has more than one tab: write CATEGORY<tab>PROMPT.");
    }
    if (line.size() > static_cast<size_t>(limits::kCeilingPromptBytes)) {
      return LineInvalid(number,
                         absl::StrCat("is longer than ", limits::kCeilingPromptBytes, " bytes."));
    }
    if (!text::IsUtf8(listed.prompt) || !text::IsUtf8(listed.category)) {
      return LineInvalid(number, "is not UTF-8.");
    }
    if (out.size() == kMaxListedPrompts) {
      return LineInvalid(
          number, absl::StrCat("is one too many: ", kMaxListedPrompts, " prompts is the limit."));
    }
    out.push_back(std::move(listed));
  }
  if (out.empty()) return errors::ConfigInvalid("The list of prompts has none.");
  return out;
}

}  // namespace chord::cli
