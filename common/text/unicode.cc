#include "common/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <vector>

namespace chord::text {
namespace {

struct Range {
  int32_t first, last;
};

template <size_t N>
bool Contains(const Range (&ranges)[N], int32_t code_point) {
  const Range* at = std::upper_bound(std::begin(ranges), std::end(ranges), code_point,
                                     [](int32_t c, const Range& r) { return c < r.first; });
  return at != std::begin(ranges) && code_point <= std::prev(at)->last;
}

// Code points that got a combining class or a canonical mapping after Unicode 9. The reference
// normalizer leaves them alone: they are boundaries that never reorder, compose or decompose.
// Blocks of Unicode 16 are listed whole, for a later utf8proc that knows them. U+11A7 (one before
// the first Hangul trailing consonant) is here because utf8proc swallows it after an LV syllable.
constexpr Range kInertInNfc[] = {
    {0x7FD, 0x7FD},     {0x897, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x11A7, 0x11A7},
    {0x1715, 0x1715},   {0x1ABF, 0x1AFF},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},
    {0x105C0, 0x105FF}, {0x10D24, 0x10D27}, {0x10D69, 0x10D6D}, {0x10EAB, 0x10EAC},
    {0x10EFA, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070},
    {0x1133B, 0x1133B}, {0x11380, 0x113FF}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x11930, 0x11930}, {0x11935, 0x11935}, {0x11938, 0x11938}, {0x1193D, 0x1193E},
    {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47},
    {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
    {0x11F41, 0x11F42}, {0x16100, 0x1613F}, {0x16D40, 0x16D7F}, {0x16FF0, 0x16FF1},
    {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
    {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF},
};

// What Unicode 15.1 and 16 added to \p{L} and \p{N}.
constexpr Range kNewLetters[] = {
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3},
    {0x10D4A, 0x10D65}, {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389},
    {0x1138B, 0x1138B}, {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7},
    {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0}, {0x13460, 0x143FA},
    {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED},
    {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D},
};
constexpr Range kNewNumbers[] = {
    {0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x16130, 0x16139},
    {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9}, {0x1E5F1, 0x1E5FA},
};

CharClass Derive(int32_t c) {
  if (c == '\r' || c == '\n') return CharClass::kNewline;
  if ((c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
      (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
      c == 0x3000) {
    return CharClass::kSpace;
  }
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharClass::kLetter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharClass::kNumber;
    case UTF8PROC_CATEGORY_CN:
      if (Contains(kNewLetters, c)) return CharClass::kLetter;
      if (Contains(kNewNumbers, c)) return CharClass::kNumber;
      return CharClass::kOther;
    default:
      return CharClass::kOther;
  }
}

int CombiningClass(int32_t c) {
  return static_cast<int>(utf8proc_get_property(c)->combining_class);
}

// Normalizes code points none of which is inert, and appends them to `out` as UTF-8.
void AppendComposed(std::vector<utf8proc_int32_t>& buffer, std::string& out) {
  if (buffer.empty()) return;
  // utf8proc's own reordering is quadratic on long runs of marks; this one is not.
  for (size_t i = 0; i < buffer.size();) {
    if (CombiningClass(buffer[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < buffer.size() && CombiningClass(buffer[end]) != 0) ++end;
    std::stable_sort(buffer.begin() + static_cast<ptrdiff_t>(i),
                     buffer.begin() + static_cast<ptrdiff_t>(end),
                     [](int32_t a, int32_t b) { return CombiningClass(a) < CombiningClass(b); });
    i = end;
  }
  const auto composed =
      utf8proc_normalize_utf32(buffer.data(), static_cast<utf8proc_ssize_t>(buffer.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  for (utf8proc_ssize_t i = 0; i < composed; ++i) {
    AppendUtf8(buffer[static_cast<size_t>(i)], &out);
  }
  buffer.clear();
}

}  // namespace

void AppendUtf8(int32_t code_point, std::string* out) {
  utf8proc_uint8_t bytes[4];
  const auto n = utf8proc_encode_char(code_point, bytes);
  out->append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(n));
}

Rune FirstRune(absl::string_view text) {
  constexpr Rune kIllFormed1{0xFFFD, 1, false};
  if (text.empty()) return {};
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  // The second byte's range depends on the lead byte: no overlong forms, surrogates or values over
  // U+10FFFF (Unicode table 3-7).
  uint8_t low = 0x80, high = 0xBF;
  int length;
  int32_t code_point;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
    code_point = lead & 0x1F;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    code_point = lead & 0x0F;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    code_point = lead & 0x07;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return kIllFormed1;
  }
  for (int i = 1; i < length; ++i) {
    if (static_cast<size_t>(i) >= text.size() || byte(i) < low || byte(i) > high) {
      return {0xFFFD, static_cast<uint8_t>(i), false};
    }
    code_point = code_point << 6 | (byte(i) & 0x3F);
    low = 0x80;
    high = 0xBF;
  }
  return {code_point, static_cast<uint8_t>(length), true};
}

std::string ToValidUtf8(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Rune rune = FirstRune(text);
    if (rune.valid) {
      out.append(text.data(), rune.bytes);
    } else {
      out.append("\xEF\xBF\xBD");
    }
    text.remove_prefix(rune.bytes);
  }
  return out;
}

size_t IncompleteTail(absl::string_view text) {
  for (size_t n = 1; n <= std::min<size_t>(3, text.size()); ++n) {
    const auto lead = static_cast<uint8_t>(text[text.size() - n]);
    if (lead < 0x80) return 0;
    if (lead < 0xC0) continue;
    const Rune rune = FirstRune(text.substr(text.size() - n));
    const size_t wanted = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    // Incomplete: everything that is there fits, only the rest is missing.
    return !rune.valid && rune.bytes == n && n < wanted && lead >= 0xC2 && lead <= 0xF4 ? n : 0;
  }
  return 0;
}

std::string Nfc(absl::string_view text) {
  // Nothing under U+0300 takes part in normalization with what is under U+0300.
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0xCC; }))
    return std::string(text);
  std::string out;
  out.reserve(text.size() + 16);
  std::vector<utf8proc_int32_t> buffer;
  while (!text.empty()) {
    const Rune rune = FirstRune(text);
    if (Contains(kInertInNfc, rune.code_point)) {
      AppendComposed(buffer, out);
      out.append(text.data(), rune.bytes);
    } else {
      utf8proc_int32_t parts[4];  // the longest canonical decomposition has four
      int boundary = 0;
      const auto n = utf8proc_decompose_char(
          rune.code_point, parts, std::size(parts),
          static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &boundary);
      buffer.insert(buffer.end(), parts, parts + std::clamp<utf8proc_ssize_t>(n, 0, 4));
    }
    text.remove_prefix(rune.bytes);
  }
  AppendComposed(buffer, out);
  return out;
}

CharClass ClassOf(int32_t code_point) {
  static const auto kLow = [] {
    std::array<CharClass, 0x250> table{};
    for (int32_t c = 0; c < 0x250; ++c) table[static_cast<size_t>(c)] = Derive(c);
    return table;
  }();
  if (code_point >= 0 && code_point < 0x250) return kLow[static_cast<size_t>(code_point)];
  return Derive(code_point);
}

bool IsWordCharacter(int32_t code_point) {
  // Marks and digits that Unicode 15.1 and 16 added.
  static constexpr Range kNew[] = {
      {0x897, 0x897},     {0x10D40, 0x10D49}, {0x10D69, 0x10D6D}, {0x10EFC, 0x10EFC},
      {0x113B8, 0x113C0}, {0x113C2, 0x113C2}, {0x113C5, 0x113C5}, {0x113C7, 0x113CA},
      {0x113CC, 0x113D0}, {0x113D2, 0x113D2}, {0x113E1, 0x113E2}, {0x116D0, 0x116E3},
      {0x11BF0, 0x11BF9}, {0x11F5A, 0x11F5A}, {0x1611E, 0x16139}, {0x16D70, 0x16D79},
      {0x1CCF0, 0x1CCF9}, {0x1E5EE, 0x1E5EF}, {0x1E5F1, 0x1E5FA},
  };
  // Symbols that count as alphabetic: circled, squared and negative letters.
  static constexpr Range kAlphabeticSymbols[] = {
      {0x24B6, 0x24E9}, {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};
  switch (utf8proc_category(code_point)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    case UTF8PROC_CATEGORY_SO:
      return Contains(kAlphabeticSymbols, code_point);
    case UTF8PROC_CATEGORY_CN:
      return Contains(kNew, code_point) || ClassOf(code_point) == CharClass::kLetter;
    default:
      return ClassOf(code_point) == CharClass::kLetter || code_point == 0x200C ||
             code_point == 0x200D;
  }
}

}  // namespace chord::text
