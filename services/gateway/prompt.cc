#include "services/gateway/prompt.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/base/limits.h"

namespace chord::gateway {
namespace {

// Takes the first character of `text`; nullopt when it is ill-formed.
std::optional<char32_t> TakeCharacter(absl::string_view& text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  const size_t length = first < 0x80                     ? 1
                        : first >= 0xC2 && first <= 0xDF ? 2
                        : first >= 0xE0 && first <= 0xEF ? 3
                        : first >= 0xF0 && first <= 0xF4 ? 4
                                                         : 0;
  if (length == 0 || length > text.size()) return std::nullopt;
  char32_t c = length == 1 ? first : first & (0xFF >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return std::nullopt;
    c = (c << 6) | (byte(i) & 0x3F);
  }
  const bool overlong = (length == 3 && c < 0x800) || (length == 4 && c < 0x10000);
  if (overlong || (c >= 0xD800 && c <= 0xDFFF) || c > 0x10FFFF) return std::nullopt;
  text.remove_prefix(length);
  return c;
}

bool IsBlank(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x2060 || c == 0x3000 || c == 0xFEFF;
}

bool IsCjk(char32_t c) {
  return (c >= 0x3040 && c <= 0x30FF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0xAC00 && c <= 0xD7AF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x20000 && c <= 0x3FFFF);
}

template <typename Words>
bool StartsWithWord(absl::string_view lower, const Words& words) {
  for (absl::string_view word : words) {
    if (absl::StartsWith(lower, word) &&
        (lower.size() == word.size() || !absl::ascii_isalnum(lower[word.size()]))) {
      return true;
    }
  }
  return false;
}

template <typename Words>
bool StartsWithAny(absl::string_view text, const Words& words) {
  for (absl::string_view word : words) {
    if (absl::StartsWith(text, word)) return true;
  }
  return false;
}

std::string WrapChinese(absl::string_view phrase) {
  static constexpr absl::string_view kRequests[] = {"找",   "定位", "框", "检测", "标", "请",
                                                    "指出", "哪",   "在", "圈",   "画", "给"};
  static constexpr absl::string_view kAll[] = {"所有", "全部", "每"};
  if (StartsWithAny(phrase, kAll)) {
    return absl::StrCat("框出", phrase, "的位置，以json格式输出所有的坐标");
  }
  if (StartsWithAny(phrase, kRequests) || absl::StrContains(phrase, "哪")) {
    return absl::StrCat(phrase, "，以JSON格式输出其bbox坐标");
  }
  return absl::StrCat("定位", phrase, "，以JSON格式输出其bbox坐标");
}

std::string WrapEnglish(absl::string_view phrase) {
  static constexpr absl::string_view kRequests[] = {
      "find",      "locate",   "detect", "show",  "where",  "where's", "outline", "point",
      "mark",      "box",      "which",  "what",  "who",    "how",     "is",      "are",
      "do",        "does",     "can",    "could", "please", "search",  "give",    "draw",
      "highlight", "identify", "look",   "tell",  "i",      "list",    "return",  "output"};
  static constexpr absl::string_view kAll[] = {"all", "every", "each"};
  static constexpr absl::string_view kDeterminers[] = {
      "the", "a",   "an",  "this",  "that", "these", "those", "my",  "your", "his",
      "her", "its", "our", "their", "any",  "some",  "both",  "one", "two",  "three"};
  const std::string lower = absl::AsciiStrToLower(phrase);
  if (StartsWithWord(lower, kAll)) {
    return absl::StrCat("Outline the position of ", phrase,
                        " and output all the coordinates in JSON format.");
  }
  if (StartsWithWord(lower, kRequests)) {
    return absl::StrCat(phrase, ", output its bbox coordinates using JSON format.");
  }
  return absl::StrCat("Locate ", StartsWithWord(lower, kDeterminers) ? "" : "the ", phrase,
                      ", output its bbox coordinates using JSON format.");
}

}  // namespace

bool IsUtf8(absl::string_view text) {
  while (!text.empty()) {
    if (!TakeCharacter(text)) return false;
  }
  return true;
}

absl::Status CheckPrompt(absl::string_view prompt, int64_t max_bytes) {
  if (static_cast<int64_t>(prompt.size()) > max_bytes) {
    return errors::PromptBytesLimit(static_cast<int64_t>(prompt.size()), max_bytes);
  }
  bool blank = true, nul = false;
  while (!prompt.empty()) {
    const auto c = TakeCharacter(prompt);
    if (!c) return errors::PromptNotUtf8();
    nul |= *c == 0;
    blank &= IsBlank(*c);
  }
  if (nul) return errors::PromptHasNul();
  if (blank) return errors::PromptEmpty();
  return absl::OkStatus();
}

bool HasCjk(absl::string_view utf8) {
  while (!utf8.empty()) {
    const auto c = TakeCharacter(utf8);
    if (!c) return false;
    if (IsCjk(*c)) return true;
  }
  return false;
}

absl::string_view WithoutEndMarks(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  for (bool more = true; more;) {
    more = false;
    for (absl::string_view mark : {".", "!", "?", "。", "！", "？", "．"}) {
      while (absl::ConsumeSuffix(&text, mark)) more = true;
    }
    text = absl::StripTrailingAsciiWhitespace(text);
  }
  return text;
}

std::string WrapPrompt(PromptWrapper wrapper, absl::string_view prompt) {
  if (wrapper == PromptWrapper::kNone) return std::string(prompt);
  const std::string lower = absl::AsciiStrToLower(prompt);
  for (absl::string_view word : {"bbox", "json", "coordinate", "bounding box", "坐标", "座標"}) {
    if (absl::StrContains(lower, word)) return std::string(prompt);
  }
  const absl::string_view phrase = WithoutEndMarks(prompt);
  if (phrase.empty()) return std::string(prompt);
  return HasCjk(prompt) ? WrapChinese(phrase) : WrapEnglish(phrase);
}

absl::StatusOr<ChordFile> LoadChordFile(const std::string& model_dir) {
  const std::string path = model_dir + "/chord.json";
  ChordFile out;
  std::ifstream file(path, std::ios::binary);
  if (!file) return out;
  std::string text(64 << 10, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return errors::CheckpointInvalid(absl::StrCat(path, " is not a JSON object."));
  }
  if (const auto name = json.find("name"); name != json.end()) {
    if (!name->is_string()) {
      return errors::CheckpointInvalid(absl::StrCat(path, ": \"name\" must be text."));
    }
    out.name = name->get<std::string>();
  }
  if (const auto wrapper = json.find("prompt_wrapper"); wrapper != json.end()) {
    if (*wrapper == "none") {
      out.wrapper = PromptWrapper::kNone;
    } else if (*wrapper != "json") {
      return errors::CheckpointInvalid(
          absl::StrCat(path, ": \"prompt_wrapper\" must be \"none\" or \"json\"."));
    }
  }
  return out;
}

}  // namespace chord::gateway
