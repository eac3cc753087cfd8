#include "services/llm_worker/grammar/box_automaton.h"

#include "common/text/ascii.h"
#include "services/llm_worker/grammar/string_automaton.h"

namespace chord::grammar {
namespace {

using text::IsDigit;
using text::IsJsonBlank;

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
  if (phase == Phase::kNumberStart) return IsJsonBlank(c) && StepBlank();
  if (phase == Phase::kNumber) {
    touched = true;
    if (!NumberMayEnd()) return false;
    blanks = 0;
    phase = Phase::kNumberGap;
  }
  if (IsJsonBlank(c)) return StepBlank();
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
  if (escape != kBetween) return StepEscape(escape, c);
  if (utf8 != kBetween) return StepUtf8(utf8, c);
  if (c == '"') {
    has_label = true;
    phase = Phase::kAfterPair;
    blanks = 0;
    return true;
  }
  if (label_full || c < 0x20) return false;
  if (c == '\\') {
    escape = kEscapeBegun;
  } else if (c >= 0x80) {
    utf8 = AfterUtf8Lead(c);
    return utf8 != kBetween;
  }
  return true;
}

void BoxState::Decide(Decision d) {
  if (decision == Decision::kNone) decision = d;
}

bool BoxState::Enter(Phase next) {
  phase = next;
  blanks = 0;
  return true;
}

bool BoxState::BeginForm(uint8_t c) {
  blanks = 0;
  if (c == '[') return Enter(Phase::kListOpen);
  if (c != '{') return false;
  Decide(Decision::kMore);
  bare = true;
  return OpenObject();
}

bool BoxState::StepStart(uint8_t c) {
  if (IsJsonBlank(c)) return StepBlank();
  if (c != '`') return BeginForm(c);
  phase = Phase::kFenceOpen;
  at = 1;
  return true;
}

bool BoxState::StepFence(uint8_t c) {
  switch (phase) {
    case Phase::kFenceOpen:
      if (c != '`') return false;
      if (++at < kFence.size()) return true;
      fence = true;
      at = 0;
      return Enter(Phase::kFenceWord);
    case Phase::kFenceWord:
      if (c == static_cast<uint8_t>(kFenceWord[at])) {
        return ++at < kFenceWord.size() || Enter(Phase::kFenceBlank);
      }
      if (at != 0) return false;  // the word is optional, but not a part of it
      if (!IsJsonBlank(c)) return BeginForm(c);
      phase = Phase::kFenceBlank;
      return StepBlank();
    case Phase::kFenceBlank:
      return IsJsonBlank(c) ? StepBlank() : BeginForm(c);
    case Phase::kFenceClose:
      if (c != '`') return false;
      return ++at < kFence.size() || Enter(Phase::kAfterFence);
    default:
      return false;
  }
}

bool BoxState::StepList(uint8_t c) {
  switch (phase) {
    case Phase::kListOpen:
      if (blanks == 0) Decide(c == ']' ? Decision::kClose : Decision::kMore);
      if (IsJsonBlank(c)) return StepBlank();
      if (c == '{') return OpenObject();
      return c == ']' && Enter(Phase::kAfterList);
    case Phase::kAfterObject:
      if (IsJsonBlank(c)) {
        if (blanks == 0 && blank_closes) Decide(Decision::kClose);
        return StepBlank();
      }
      if (blanks == 0 || !blank_closes) Decide(c == ',' ? Decision::kMore : Decision::kClose);
      if (c == ',') return Enter(Phase::kNextObject);
      return c == ']' && Enter(Phase::kAfterList);
    case Phase::kNextObject:
      return IsJsonBlank(c) ? StepBlank() : c == '{' && OpenObject();
    case Phase::kAfterList:
      if (IsJsonBlank(c)) return StepBlank();
      if (!fence || c != '`') return false;
      phase = Phase::kFenceClose;
      at = 1;
      return true;
    default:
      return false;
  }
}

bool BoxState::StepObject(uint8_t c) {
  switch (phase) {
    case Phase::kObjectOpen:
    case Phase::kSecondKey:
      if (IsJsonBlank(c)) return StepBlank();
      if (c != '"') return false;
      phase = Phase::kKey;
      key = OnlyKey();
      at = 0;
      return true;
    case Phase::kKey: {
      if (key == Key::kNone) key = c == 'b' ? Key::kBox : Key::kLabel;
      const absl::string_view literal = key == Key::kBox ? kBoxKey : kLabelKey;
      if (c != static_cast<uint8_t>(literal[at])) return false;
      return ++at < literal.size() || Enter(Phase::kColon);
    }
    case Phase::kColon:
      if (IsJsonBlank(c)) return StepBlank();
      return c == ':' && Enter(Phase::kValue);
    case Phase::kValue:
      return IsJsonBlank(c) ? StepBlank() : BeginValue(c);
    case Phase::kAfterPair:
      if (IsJsonBlank(c)) return StepBlank();
      if (c == '}') return CloseObject();
      return c == ',' && MayHaveSecondPair() && Enter(Phase::kSecondKey);
    default:
      return false;
  }
}

bool BoxState::BeginValue(uint8_t c) {
  if (key == Key::kBox) {
    coordinate = digits = 0;
    value = 0;
    return c == '[' && Enter(Phase::kNumberStart);
  }
  utf8 = kBetween;
  escape = kBetween;
  label_bytes = 0;
  label_full = false;
  return c == '"' && Enter(Phase::kLabel);
}

bool BoxState::Step(uint8_t c) {
  switch (phase) {
    case Phase::kStart:
      return StepStart(c);
    case Phase::kFenceOpen:
    case Phase::kFenceWord:
    case Phase::kFenceBlank:
    case Phase::kFenceClose:
      return StepFence(c);
    case Phase::kListOpen:
    case Phase::kAfterObject:
    case Phase::kNextObject:
    case Phase::kAfterList:
      return StepList(c);
    case Phase::kObjectOpen:
    case Phase::kKey:
    case Phase::kColon:
    case Phase::kValue:
    case Phase::kAfterPair:
    case Phase::kSecondKey:
      return StepObject(c);
    case Phase::kNumberStart:
    case Phase::kNumber:
    case Phase::kNumberGap:
      return StepNumber(c);
    case Phase::kLabel:
      return StepLabel(c);
    case Phase::kAfterFence:
      return IsJsonBlank(c) && StepBlank();
    case Phase::kEnded:
    case Phase::kFree:
      return false;
  }
  return false;
}

}  // namespace chord::grammar
