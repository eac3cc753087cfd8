#include "services/gateway/prompt.h"

#include <algorithm>
#include <fstream>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/text/unicode.h"

namespace chord::gateway {
namespace {

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

// A word that says in which form to answer, unless one of `nouns` follows: then it belongs to the
// name of a thing ("the coordinate axes", "坐标轴").
struct FormWord {
  absl::string_view word;
  std::initializer_list<absl::string_view> nouns;
};
constexpr std::initializer_list<absl::string_view> kCoordinateNouns = {
    "axis", "axes", "system", "plane", "grid", "paper", "轴", "系", "纸",
    "图",   "平面", "网",     "原点",  "仪",   "尺",    "线", "板"};
constexpr std::initializer_list<absl::string_view> kFileNouns = {
    "file", "files", "icon", "icons", "logo", "document", "文件", "图标", "文档", "标志"};
const FormWord kFormWords[] = {{"bbox", {}},
                               {"bboxes", {}},
                               {"bbox_2d", {}},
                               {"bounding box", {}},
                               {"bounding boxes", {}},
                               {"json", kFileNouns},
                               {"coordinate", kCoordinateNouns},
                               {"coordinates", kCoordinateNouns},
                               {"坐标", kCoordinateNouns},
                               {"座標", {"軸", "系", "紙", "図", "圖", "平面", "原点", "原點"}}};

bool IsWordByte(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; }

bool StartsWithAnyWord(absl::string_view text, std::initializer_list<absl::string_view> words) {
  return std::any_of(words.begin(), words.end(), [text](absl::string_view word) {
    return absl::StartsWith(text, word) &&
           (!IsWordByte(word.back()) || text.size() == word.size() ||
            !IsWordByte(text[word.size()]));
  });
}

// Whether the prompt says itself in which form to answer. Words of Latin letters count as whole
// words; Chinese has no blanks between words, so there the following noun decides.
bool NamesOutputForm(absl::string_view prompt) {
  const std::string lowered = absl::AsciiStrToLower(prompt);
  const absl::string_view lower = lowered;
  for (const FormWord& form : kFormWords) {
    const bool latin = IsWordByte(form.word.front());
    for (size_t at = 0; (at = lower.find(form.word, at)) != absl::string_view::npos; ++at) {
      const size_t end = at + form.word.size();
      if (latin && ((at > 0 && IsWordByte(lower[at - 1])) ||
                    (end < lower.size() && IsWordByte(lower[end])))) {
        continue;
      }
      const absl::string_view rest = absl::StripLeadingAsciiWhitespace(lower.substr(end));
      if (!StartsWithAnyWord(rest, form.nouns)) return true;
    }
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

absl::Status CheckPrompt(absl::string_view prompt, int64_t max_bytes) {
  if (static_cast<int64_t>(prompt.size()) > max_bytes) {
    return errors::PromptBytesLimit(static_cast<int64_t>(prompt.size()), max_bytes);
  }
  bool blank = true, nul = false;
  while (!prompt.empty()) {
    const text::Rune rune = text::FirstRune(prompt);
    if (!rune.valid) return errors::PromptNotUtf8();
    prompt.remove_prefix(rune.bytes);
    nul |= rune.code_point == 0;
    blank &= IsBlank(static_cast<char32_t>(rune.code_point));
  }
  if (nul) return errors::PromptHasNul();
  if (blank) return errors::PromptEmpty();
  return absl::OkStatus();
}

bool HasCjk(absl::string_view utf8) {
  while (!utf8.empty()) {
    const text::Rune rune = text::FirstRune(utf8);
    if (IsCjk(static_cast<char32_t>(rune.code_point))) return true;
    utf8.remove_prefix(rune.bytes);
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
  if (wrapper == PromptWrapper::kNone || NamesOutputForm(prompt)) return std::string(prompt);
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
  if (const auto passes = json.find("label_passes"); passes != json.end()) {
    if (*passes == "per_label") {
      out.label_passes = LabelPasses::kPerLabel;
    } else if (*passes != "one") {
      return errors::CheckpointInvalid(
          absl::StrCat(path, ": \"label_passes\" must be \"one\" or \"per_label\"."));
    }
  }
  return out;
}

}  // namespace chord::gateway
