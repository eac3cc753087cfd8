#include "services/llm_worker/grammar/string_automaton.h"

#include "absl/strings/string_view.h"

namespace chord::grammar {
namespace {

// What the next byte of a character must be (Unicode, table 3-7).
enum Utf8 : uint8_t { kWhole = kBetween, kTail1, kTail2, kTail3, kE0, kED, kF0, kF4 };
// Where an escape is (RFC 8259 §7; surrogates only in pairs).
enum Escape : uint8_t {
  kNoEscape = kBetween,
  kBackslash = kEscapeBegun,
  kHex4,  // after "\u": four digits to come
  kHex3,
  kHex2,
  kHex1,
  kHexD,   // after "\ud"
  kHigh2,  // after "\ud8" to "\udb": two more, then the low half
  kHigh1,
  kLowBackslash,  // the low half's "\" ...
  kLowU,          // ... "u" ...
  kLowD,          // ... "d" ...
  kLowC,          // ... and a digit from c to f; then two of any kind
};

int Hex(uint8_t c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = static_cast<uint8_t>(c | 0x20);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

}  // namespace

uint8_t AfterUtf8Lead(uint8_t c) {
  if (c >= 0xC2 && c <= 0xDF) return kTail1;
  if (c == 0xE0) return kE0;
  if (c == 0xED) return kED;
  if (c >= 0xE1 && c <= 0xEF) return kTail2;
  if (c == 0xF0) return kF0;
  if (c >= 0xF1 && c <= 0xF3) return kTail3;
  if (c == 0xF4) return kF4;
  return kWhole;
}

bool StepUtf8(uint8_t& state, uint8_t c) {
  uint8_t low = 0x80, high = 0xBF;
  uint8_t next = kWhole;
  switch (state) {
    case kTail1:
      break;
    case kTail2:
      next = kTail1;
      break;
    case kTail3:
      next = kTail2;
      break;
    case kE0:
      low = 0xA0, next = kTail1;
      break;
    case kED:
      high = 0x9F, next = kTail1;
      break;
    case kF0:
      low = 0x90, next = kTail2;
      break;
    default:  // kF4
      high = 0x8F, next = kTail2;
      break;
  }
  if (c < low || c > high) return false;
  state = next;
  return true;
}

bool StepEscape(uint8_t& state, uint8_t c) {
  const int hex = Hex(c);
  switch (state) {
    case kBackslash:
      if (c == 'u') {
        state = kHex4;
        return true;
      }
      state = kNoEscape;
      return absl::string_view("\"\\/bfnrt").find(static_cast<char>(c)) != absl::string_view::npos;
    case kHex4:
      state = hex == 0xD ? kHexD : kHex3;
      return hex >= 0;
    case kHex3:
      state = kHex2;
      return hex >= 0;
    case kHex2:
      state = kHex1;
      return hex >= 0;
    case kHex1:
      state = kNoEscape;
      return hex >= 0;
    case kHexD:
      state = hex < 8 ? kHex2 : kHigh2;
      return hex >= 0 && hex < 0xC;
    case kHigh2:
      state = kHigh1;
      return hex >= 0;
    case kHigh1:
      state = kLowBackslash;
      return hex >= 0;
    case kLowBackslash:
      state = kLowU;
      return c == '\\';
    case kLowU:
      state = kLowD;
      return c == 'u';
    case kLowD:
      state = kLowC;
      return hex == 0xD;
    default:  // kLowC
      state = kHex2;
      return hex >= 0xC;
  }
}

}  // namespace chord::grammar
