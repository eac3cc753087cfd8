#include "services/llm_worker/grammar/label_drafter.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace chord::grammar {
namespace {

constexpr size_t kMaxPromptBytes = 512;
constexpr size_t kMaxCandidates = 64;
constexpr size_t kMaxCandidateBytes = 96;

// Words before the thing, in English; each is followed by a blank.
constexpr absl::string_view kBefore[] = {"please",
                                         "can you",
                                         "could you",
                                         "find",
                                         "locate",
                                         "detect",
                                         "where is",
                                         "where are",
                                         "where's",
                                         "show me",
                                         "show",
                                         "point out",
                                         "point to",
                                         "mark",
                                         "box",
                                         "ground",
                                         "outline",
                                         "identify",
                                         "highlight",
                                         "draw a box around",
                                         "draw boxes around",
                                         "give me",
                                         "position of",
                                         "positions of",
                                         "location of",
                                         "locations of",
                                         "bounding box of",
                                         "bounding boxes of",
                                         "coordinates of",
                                         "every",
                                         "each",
                                         "all of",
                                         "all",
                                         "any",
                                         "the",
                                         "a",
                                         "an"};
constexpr absl::string_view kManyWords[] = {"every",
                                            "each",
                                            "all of",
                                            "all",
                                            "where are",
                                            "positions of",
                                            "locations of",
                                            "bounding boxes of",
                                            "draw boxes around"};
// Where the thing's name ends.
constexpr absl::string_view kAfter[] = {" in the image",
                                        " in this image",
                                        " in the image",
                                        " in this image",
                                        " in the photo",
                                        " in this photo",
                                        " in the scene",
                                        " and return",
                                        " and output",
                                        " and give",
                                        " using json",
                                        " in json",
                                        ", ",
                                        ". ",
                                        "? "};
constexpr absl::string_view kPlaceBefore[] = {
    "leftmost", "rightmost", "topmost", "bottommost", "left",    "right", "upper",
    "lower",    "top",       "bottom",  "big",        "biggest", "large", "largest",
    "larger",   "bigger",    "small",   "smallest",   "smaller"};
constexpr absl::string_view kPlaceAfter[] = {" on the ", " at the ",  " in the ", " to the ",
                                             " near ",   " next to ", " with "};

constexpr absl::string_view kBeforeZh[] = {
    "请",     "帮我",     "找到",   "找出",         "定位",     "标出",     "标注",     "框出",
    "检测",   "指出",     "圈出",   "这张图片中的", "图片中的", "图像中的", "图片里的", "图中的",
    "图里的", "图里那个", "图片中", "图片里",       "图中",     "图里",     "所有的",   "所有",
    "全部的", "全部",     "每一个", "每个",         "那个",     "这个",     "的"};
constexpr absl::string_view kManyWordsZh[] = {"所有的", "所有", "全部的", "全部", "每一个", "每个"};
constexpr absl::string_view kAfterZh[] = {
    "在哪里", "在哪儿", "在哪", "的位置", "的坐标", "的边界框", "，", "。", "？", "！", ",", "?"};
constexpr absl::string_view kPlaceZh[] = {"最左边的", "最右边的", "最上面的", "最下面的", "左边的",
                                          "右边的",   "上面的",   "下面的",   "左侧的",   "右侧的",
                                          "上方的",   "下方的",   "最大的",   "最小的",   "较大的",
                                          "较小的",   "大的",     "小的"};

bool HasHan(absl::string_view s) {
  for (size_t i = 0; i + 2 < s.size(); ++i) {
    const auto c = static_cast<unsigned char>(s[i]);
    if (c >= 0xE3 && c <= 0xE9) return true;
  }
  return false;
}

bool ConsumeWord(absl::string_view& s, absl::string_view word) {
  if (s.size() <= word.size() || s[word.size()] != ' ' ||
      !absl::EqualsIgnoreCase(s.substr(0, word.size()), word)) {
    return false;
  }
  s = absl::StripLeadingAsciiWhitespace(s.substr(word.size()));
  return true;
}

template <size_t n>
void CutAfter(absl::string_view& s, const absl::string_view (&marks)[n]) {
  const std::string lower = absl::AsciiStrToLower(s);
  size_t end = s.size();
  for (const absl::string_view mark : marks) {
    const size_t at = absl::string_view(lower).find(mark);
    if (at != absl::string_view::npos && at > 0) end = std::min(end, at);
  }
  s = s.substr(0, end);
}

// One thing of those that `plural` names; "" where it does not look like a plural.
std::string Singular(absl::string_view plural) {
  static constexpr std::pair<absl::string_view, absl::string_view> kIrregular[] = {
      {"people", "person"}, {"men", "man"},     {"women", "woman"}, {"children", "child"},
      {"mice", "mouse"},    {"geese", "goose"}, {"feet", "foot"},   {"teeth", "tooth"},
      {"knives", "knife"},  {"leaves", "leaf"}, {"wolves", "wolf"}};
  for (const auto& [many, one] : kIrregular) {
    if (absl::EndsWithIgnoreCase(plural, many) &&
        (plural.size() == many.size() || plural[plural.size() - many.size() - 1] == ' ')) {
      return absl::StrCat(plural.substr(0, plural.size() - many.size()), one);
    }
  }
  if (plural.size() > 4 && absl::EndsWith(plural, "ies")) {
    return absl::StrCat(plural.substr(0, plural.size() - 3), "y");
  }
  for (const absl::string_view end : {"xes", "ches", "shes", "sses"}) {
    if (absl::EndsWith(plural, end)) return std::string(plural.substr(0, plural.size() - 2));
  }
  if (plural.size() > 2 && absl::EndsWith(plural, "s") && !absl::EndsWith(plural, "ss")) {
    return std::string(plural.substr(0, plural.size() - 1));
  }
  return "";
}

}  // namespace

LabelDrafter::LabelDrafter(absl::string_view prompt) {
  prompt = absl::StripAsciiWhitespace(prompt.substr(0, kMaxPromptBytes));
  while (!prompt.empty() && absl::StrContains(".?!;:\"'", prompt.substr(prompt.size() - 1))) {
    prompt.remove_suffix(1);
  }
  if (HasHan(prompt)) {
    AddChinese(prompt);
  } else {
    AddEnglish(prompt);
  }
}

void LabelDrafter::Add(absl::string_view candidate) {
  candidate = absl::StripAsciiWhitespace(candidate);
  if (candidate.empty() || candidate.size() > kMaxCandidateBytes ||
      candidates_.size() >= kMaxCandidates) {
    return;
  }
  for (const char c : candidate) {  // a string of JSON writes these otherwise
    if (c == '"' || c == '\\' || static_cast<unsigned char>(c) < 0x20) return;
  }
  if (std::find(candidates_.begin(), candidates_.end(), candidate) == candidates_.end()) {
    candidates_.emplace_back(candidate);
  }
}

void LabelDrafter::AddEnglish(absl::string_view phrase) {
  for (bool again = true; again;) {
    again = false;
    for (const absl::string_view word : kBefore) {
      if (!ConsumeWord(phrase, word)) continue;
      again = true;
      many_ |=
          std::find(std::begin(kManyWords), std::end(kManyWords), word) != std::end(kManyWords);
    }
  }
  CutAfter(phrase, kAfter);
  absl::string_view name = phrase;
  CutAfter(name, kPlaceAfter);
  for (const absl::string_view word : kPlaceBefore) ConsumeWord(name, word);
  for (const absl::string_view p : {name, phrase}) {
    const std::string singular = Singular(p);
    if (many_) Add(singular);
    Add(p);
    Add(absl::AsciiStrToLower(p));
    Add(singular);
  }
  for (size_t i = 0; i < phrase.size(); ++i) {  // the model may begin at any word
    if (phrase[i] != ' ') continue;
    const absl::string_view rest = phrase.substr(i + 1);
    if (many_) Add(Singular(rest));
    Add(rest);
  }
}

void LabelDrafter::AddChinese(absl::string_view phrase) {
  for (bool again = true; again;) {
    again = false;
    for (const absl::string_view word : kBeforeZh) {
      if (phrase.size() <= word.size() || !absl::ConsumePrefix(&phrase, word)) continue;
      phrase = absl::StripLeadingAsciiWhitespace(phrase);
      again = true;
      many_ |= std::find(std::begin(kManyWordsZh), std::end(kManyWordsZh), word) !=
               std::end(kManyWordsZh);
    }
  }
  CutAfter(phrase, kAfterZh);
  absl::string_view name = phrase;
  for (const absl::string_view word : kPlaceZh) {
    if (name.size() > word.size()) absl::ConsumePrefix(&name, word);
  }
  Add(name);
  Add(phrase);
  for (size_t i = 1; i < phrase.size(); ++i) {  // the model may begin at any character
    if ((static_cast<unsigned char>(phrase[i]) & 0xC0) != 0x80) Add(phrase.substr(i));
  }
}

std::optional<std::string> LabelDrafter::Rest(absl::string_view begun,
                                              absl::Span<const std::string> earlier) const {
  for (auto label = earlier.rbegin(); label != earlier.rend(); ++label) {
    if (absl::StartsWith(*label, begun)) return label->substr(begun.size());
  }
  for (const std::string& candidate : candidates_) {
    if (absl::StartsWith(candidate, begun)) return candidate.substr(begun.size());
  }
  return std::nullopt;
}

}  // namespace chord::grammar
