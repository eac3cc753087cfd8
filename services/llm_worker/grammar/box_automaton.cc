#include "services/llm_worker/grammar/box_automaton.h"

namespace chord::grammar {
namespace {

bool IsBlank(uint8_t c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }
bool IsDigit(uint8_t c) { return c >= '0' && c <= '9'; }

constexpr int kMaxDigits = 8;  // of kMaxSide

// True when `value`, continued by any number of digits, can lie in [low, high].
bool CanReach(int64_t value, int digits, int64_t low, int64_t high) {
  if (value == 0 && digits > 0) return low <= 0 && 0 <= high;  // "0" takes no more digits
  for (int64_t power = 1; digits <= kMaxDigits; ++digits, power *= 10) {
    if (value * power > high) return false;
    if (value * power + power - 1 >= low) return true;
  }
  return false;
}

// --- UTF-8 (Unicode, table 3-7) -------------------------------------------------------------
// What the next byte of a character must be, by the state that its first bytes left.
enum Utf8 : uint8_t { kWhole, kTail1, kTail2, kTail3, kE0, kED, kF0, kF4 };

// The state after the first byte, or kWhole when none may begin so. ASCII is not asked for.
Utf8 AfterLead(uint8_t c) {
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

// --- escapes (RFC 8259 §7; surrogates only in pairs) -----------------------------------------
enum Escape : uint8_t {
  kNoEscape,
  kBackslash,
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
  if (IsDigit(c)) return c - '0';
  c = static_cast<uint8_t>(c | 0x20);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
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

}  // namespace

bool BoxState::NumberMayEnd() const {
  if (digits == 0) return false;
  if (loose) return true;
  const int axis = coordinate & 1;
  const int32_t from = coordinate < 2 ? 0 : low[axis] + 1;
  const int32_t to = coordinate < 2 ? side[axis] - 1 : side[axis];
  return value >= from && value <= to;
}

bool BoxState::DigitMayFollow(int d) const {
  if (loose) return digits < kMaxDigits;
  if (digits > 0 && value == 0) return false;
  if (digits == kMaxDigits) return false;
  const int axis = coordinate & 1;
  const int32_t from = coordinate < 2 ? 0 : low[axis] + 1;
  const int32_t to = coordinate < 2 ? side[axis] - 1 : side[axis];
  return CanReach(10 * static_cast<int64_t>(value) + d, digits + 1, from, to);
}

bool BoxState::MayHaveSecondPair() const {
  if (has_box && has_label) return false;
  return has_box ? shape == Shape::kUnknown || shape == Shape::kBoxLabel
                 : shape == Shape::kUnknown || shape == Shape::kLabelBox;
}

bool BoxState::MayCloseObject() const {
  return has_box && (has_label || shape == Shape::kUnknown || shape == Shape::kBox);
}

Key BoxState::OnlyKey() const {
  if (has_box) return Key::kLabel;
  if (has_label) return Key::kBox;
  if (shape == Shape::kUnknown) return Key::kNone;
  return shape == Shape::kLabelBox ? Key::kLabel : Key::kBox;
}

bool BoxState::StepBlank() { return ++blanks <= kMaxBlanks; }

bool BoxState::OpenObject() {
  if (side[0] < 1 || side[1] < 1) {
    touched = true;
    if (!loose) return false;  // no box fits
  }
  phase = Phase::kObjectOpen;
  blanks = 0;
  has_box = has_label = false;
  return true;
}

bool BoxState::CloseObject() {
  if (!MayCloseObject()) return false;
  if (shape == Shape::kUnknown) {
    shape = !has_label ? Shape::kBox : key == Key::kLabel ? Shape::kBoxLabel : Shape::kLabelBox;
  }
  phase = bare ? Phase::kAfterList : Phase::kAfterObject;
  blanks = 0;
  return true;
}

bool BoxState::StepNumber(uint8_t c) {
  if (IsDigit(c)) {
    touched = true;
    if (phase == Phase::kNumberGap || !DigitMayFollow(c - '0')) return false;
    phase = Phase::kNumber;
    value = loose ? 0 : 10 * value + (c - '0');
    ++digits;
    return true;
  }
  if (phase == Phase::kNumberStart) return IsBlank(c) && StepBlank();
  if (phase == Phase::kNumber) {
    touched = true;
    if (!NumberMayEnd()) return false;
    blanks = 0;
    phase = Phase::kNumberGap;
  }
  if (IsBlank(c)) return StepBlank();
  if (c != (coordinate == 3 ? ']' : ',')) return false;
  if (coordinate < 2) low[coordinate] = value;
  ++coordinate;
  value = 0;
  digits = 0;
  blanks = 0;
  if (c == ',') {
    phase = Phase::kNumberStart;
  } else {
    has_box = true;
    phase = Phase::kAfterPair;
  }
  return true;
}

bool BoxState::StepLabel(uint8_t c) {
  if (label_bytes < UINT16_MAX) ++label_bytes;
  if (escape != kNoEscape) return StepEscape(escape, c);
  if (utf8 != kWhole) return StepUtf8(utf8, c);
  if (c == '"') {
    has_label = true;
    phase = Phase::kAfterPair;
    blanks = 0;
    return true;
  }
  if (label_full || c < 0x20) return false;
  if (c == '\\') {
    escape = kBackslash;
  } else if (c >= 0x80) {
    utf8 = AfterLead(c);
    return utf8 != kWhole;
  }
  return true;
}

bool BoxState::Step(uint8_t c) {
  const auto decide = [this](Decision d) {
    if (decision == Decision::kNone) decision = d;
  };
  switch (phase) {
    case Phase::kStart:
    case Phase::kFenceWord:
    case Phase::kFenceBlank:
      if (IsBlank(c)) {
        if (phase == Phase::kFenceWord && at != 0) return false;
        if (phase == Phase::kFenceWord) phase = Phase::kFenceBlank;
        return StepBlank();
      }
      if (c == '`' && phase == Phase::kStart) {
        phase = Phase::kFenceOpen;
        at = 1;
        return true;
      }
      if (phase == Phase::kFenceWord && c == static_cast<uint8_t>(kFenceWord[at])) {
        if (++at == kFenceWord.size()) {
          phase = Phase::kFenceBlank;
          blanks = 0;
        }
        return true;
      }
      if (phase == Phase::kFenceWord && at != 0) return false;
      blanks = 0;
      if (c == '[') {
        phase = Phase::kListOpen;
        return true;
      }
      if (c != '{') return false;
      decide(Decision::kMore);
      bare = true;
      return OpenObject();
    case Phase::kFenceOpen:
      if (c != '`') return false;
      if (++at == kFence.size()) {
        fence = true;
        at = 0;
        blanks = 0;
        phase = Phase::kFenceWord;
      }
      return true;
    case Phase::kListOpen:
      if (blanks == 0) decide(c == ']' ? Decision::kClose : Decision::kMore);
      if (IsBlank(c)) return StepBlank();
      if (c == '{') return OpenObject();
      if (c != ']') return false;
      blanks = 0;
      phase = Phase::kAfterList;
      return true;
    case Phase::kObjectOpen:
    case Phase::kSecondKey:
      if (IsBlank(c)) return StepBlank();
      if (c != '"') return false;
      phase = Phase::kKey;
      key = OnlyKey();
      at = 0;
      return true;
    case Phase::kKey: {
      if (key == Key::kNone) key = c == 'b' ? Key::kBox : Key::kLabel;
      const absl::string_view literal = key == Key::kBox ? kBoxKey : kLabelKey;
      if (c != static_cast<uint8_t>(literal[at])) return false;
      if (++at == literal.size()) {
        phase = Phase::kColon;
        blanks = 0;
      }
      return true;
    }
    case Phase::kColon:
      if (IsBlank(c)) return StepBlank();
      if (c != ':') return false;
      phase = Phase::kValue;
      blanks = 0;
      return true;
    case Phase::kValue:
      if (IsBlank(c)) return StepBlank();
      blanks = 0;
      if (key == Key::kBox) {
        coordinate = digits = 0;
        value = 0;
        phase = Phase::kNumberStart;
        return c == '[';
      }
      utf8 = kWhole;
      escape = kNoEscape;
      label_bytes = 0;
      label_full = false;
      phase = Phase::kLabel;
      return c == '"';
    case Phase::kNumberStart:
    case Phase::kNumber:
    case Phase::kNumberGap:
      return StepNumber(c);
    case Phase::kLabel:
      return StepLabel(c);
    case Phase::kAfterPair:
      if (IsBlank(c)) return StepBlank();
      if (c == '}') return CloseObject();
      if (c != ',' || !MayHaveSecondPair()) return false;
      phase = Phase::kSecondKey;
      blanks = 0;
      return true;
    case Phase::kAfterObject:
      if (IsBlank(c)) {
        if (blanks == 0 && blank_closes) decide(Decision::kClose);
        return StepBlank();
      }
      if (blanks == 0 || !blank_closes) decide(c == ',' ? Decision::kMore : Decision::kClose);
      blanks = 0;
      phase = c == ',' ? Phase::kNextObject : Phase::kAfterList;
      return c == ',' || c == ']';
    case Phase::kNextObject:
      if (IsBlank(c)) return StepBlank();
      return c == '{' && OpenObject();
    case Phase::kAfterList:
      if (IsBlank(c)) return StepBlank();
      if (!fence || c != '`') return false;
      phase = Phase::kFenceClose;
      at = 1;
      return true;
    case Phase::kFenceClose:
      if (c != '`') return false;
      if (++at == kFence.size()) {
        phase = Phase::kAfterFence;
        blanks = 0;
      }
      return true;
    case Phase::kAfterFence:
      return IsBlank(c) && StepBlank();
    case Phase::kEnded:
    case Phase::kFree:
      return false;
  }
  return false;
}

}  // namespace chord::grammar
