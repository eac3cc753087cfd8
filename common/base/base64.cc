#include "common/base/base64.h"

#include <array>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace chord {
namespace {

constexpr int8_t kInvalid = -1, kSpace = -2, kPadding = -3;

constexpr std::array<int8_t, 256> kValues = [] {
  std::array<int8_t, 256> values{};
  for (int8_t& value : values) value = kInvalid;
  int8_t next = 0;
  for (const char c :
       absl::string_view("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")) {
    values[static_cast<unsigned char>(c)] = next++;
  }
  for (const char c : absl::string_view("\t\n\f\r ")) {
    values[static_cast<unsigned char>(c)] = kSpace;
  }
  values['='] = kPadding;
  return values;
}();

}  // namespace

bool DecodeForgivingBase64(std::string& text) {
  uint32_t bits = 0;
  size_t out = 0;  // never ahead of what is read
  size_t digits = 0, padding = 0;
  for (const char c : text) {
    const int8_t value = kValues[static_cast<unsigned char>(c)];
    if (value == kSpace) continue;
    if (value == kPadding) {
      ++padding;
      continue;
    }
    if (value == kInvalid || padding > 0) return false;
    bits = bits << 6 | static_cast<uint32_t>(value);
    if (++digits % 4 != 0) continue;
    text[out++] = static_cast<char>(bits >> 16 & 0xFF);
    text[out++] = static_cast<char>(bits >> 8 & 0xFF);
    text[out++] = static_cast<char>(bits & 0xFF);
  }
  // Padding is all or nothing: it completes a group of four.
  if (digits % 4 == 1 || (padding > 0 && (padding > 2 || (digits + padding) % 4 != 0)))
    return false;
  if (digits % 4 == 2) text[out++] = static_cast<char>(bits >> 4 & 0xFF);
  if (digits % 4 == 3) {
    text[out++] = static_cast<char>(bits >> 10 & 0xFF);
    text[out++] = static_cast<char>(bits >> 2 & 0xFF);
  }
  text.resize(out);
  return true;
}

}  // namespace chord
