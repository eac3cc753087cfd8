#include "services/gateway/openai/data_url.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "common/base/errors.h"

namespace chord::gateway::openai {
namespace {

constexpr size_t kMaxMediaType = 256;  // bytes between "data:" and the comma

std::array<int8_t, 256> Base64Values() {
  std::array<int8_t, 256> values;
  values.fill(-1);
  constexpr absl::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < kAlphabet.size(); ++i) {
    values[static_cast<unsigned char>(kAlphabet[i])] = static_cast<int8_t>(i);
  }
  return values;
}

bool IsBase64Blank(char c) { return c == '\t' || c == '\n' || c == '\f' || c == '\r' || c == ' '; }

int HexDigit(char c) {
  if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) return -1;
  return absl::ascii_isdigit(static_cast<unsigned char>(c))
             ? c - '0'
             : absl::ascii_tolower(static_cast<unsigned char>(c)) - 'a' + 10;
}

}  // namespace

void PercentDecode(std::string& text) {
  size_t out = text.find('%');
  if (out == std::string::npos) return;
  for (size_t i = out; i < text.size(); ++i) {
    const bool coded = text[i] == '%' && i + 2 < text.size() && HexDigit(text[i + 1]) >= 0 &&
                       HexDigit(text[i + 2]) >= 0;
    text[out++] =
        coded ? static_cast<char>(HexDigit(text[i + 1]) << 4 | HexDigit(text[i + 2])) : text[i];
    if (coded) i += 2;
  }
  text.resize(out);
}

bool ForgivingBase64(std::string& text) {
  static const std::array<int8_t, 256> kValues = Base64Values();
  text.erase(std::remove_if(text.begin(), text.end(), IsBase64Blank), text.end());
  if (text.size() % 4 == 0) {
    for (int i = 0; i < 2 && !text.empty() && text.back() == '='; ++i) text.pop_back();
  }
  if (text.size() % 4 == 1) return false;
  uint32_t bits = 0;
  int held = 0;
  size_t out = 0;  // never ahead of what is read
  for (const char c : text) {
    const int value = kValues[static_cast<unsigned char>(c)];
    if (value < 0) return false;
    bits = bits << 6 | static_cast<uint32_t>(value);
    held += 6;
    if (held >= 8) {
      held -= 8;
      text[out++] = static_cast<char>(bits >> held & 0xFF);
    }
  }
  text.resize(out);
  return true;
}

absl::StatusOr<std::string> DecodeImageUrl(std::string url, absl::string_view param) {
  const absl::string_view begin = absl::StripLeadingAsciiWhitespace(url);
  for (absl::string_view scheme : {"http:", "https:", "ftp:", "file:"}) {
    if (absl::StartsWithIgnoreCase(begin, scheme)) return errors::ImageUrlRefused();
  }
  const absl::Status bad =
      errors::ParameterInvalid(param, "a data: URL with base64, as data:image/png;base64,…");
  if (!absl::StartsWithIgnoreCase(begin, "data:")) return bad;
  const absl::string_view rest = begin.substr(5);
  const size_t comma = rest.substr(0, kMaxMediaType + 1).find(',');
  if (comma == absl::string_view::npos) return bad;
  absl::string_view type = absl::StripAsciiWhitespace(rest.substr(0, comma));
  if (!absl::EndsWithIgnoreCase(type, "base64")) return bad;
  type = absl::StripTrailingAsciiWhitespace(type.substr(0, type.size() - 6));
  if (!absl::EndsWith(type, ";")) return bad;
  url.erase(0, static_cast<size_t>(rest.data() - url.data()) + comma + 1);
  url.resize(std::min(url.size(), url.find('#')));  // a URL's fragment is not part of its bytes
  PercentDecode(url);
  if (!ForgivingBase64(url)) return bad;
  return url;
}

}  // namespace chord::gateway::openai
