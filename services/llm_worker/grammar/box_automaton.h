// The box answer's language as an automaton over bytes: no tokens, no heap, no text.
//
//   answer := blanks [ "```" [ "json" ] blanks ] ( list | object ) blanks [ "```" blanks ]
//   list   := "[" blanks [ object blanks { "," blanks object blanks } ] "]"
//   object := "{" pair [ "," pair ] "}"       pairs: "bbox_2d": [x1, y1, x2, y2] and "label": "..."
//
// JSON white space wherever JSON has it, at most kMaxBlanks in a row. The label may come first or
// be absent, as the first object of the answer shows; the other objects have the same keys in the
// same order. Numbers are whole, without sign or leading zeros. The closing fence comes exactly
// when one was opened.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace chord::grammar {

inline constexpr int kMaxBlanks = 16;  // a line break and three levels of four blanks are 13
inline constexpr int kMaxLabelBytes = 128;
inline constexpr int64_t kMaxSide = 99'999'999;  // px; larger bounds mean this one

inline constexpr absl::string_view kFence = "```";
inline constexpr absl::string_view kFenceWord = "json";
inline constexpr absl::string_view kBoxKey = "bbox_2d\"";
inline constexpr absl::string_view kLabelKey = "label\"";

enum class Phase : uint8_t {
  // Before the form: anything else is free text.
  kStart,
  kFenceOpen,   // inside the opening "```"
  kFenceWord,   // inside "json"; nothing of it is written yet where at == 0
  kFenceBlank,  // after it
  // Inside. A phase named after what precedes takes blanks, unless it says otherwise.
  kListOpen,     // after "["
  kObjectOpen,   // after "{"
  kKey,          // inside a key, no blanks
  kColon,        // after a key
  kValue,        // after ":"
  kNumberStart,  // before a number
  kNumber,       // inside a number
  kNumberGap,    // after a number and a blank
  kLabel,        // inside the label's string
  kAfterPair,    // after the value of a pair
  kSecondKey,    // after "," inside an object
  kAfterObject,  // after "}" in a list
  kNextObject,   // after "," in a list
  // Complete.
  kAfterList,   // after "]", or after "}" of a single object
  kFenceClose,  // inside the closing "```", no blanks
  kAfterFence,
  kEnded,  // after an end token
  // No form.
  kFree,
};

enum class Key : uint8_t { kNone, kBox, kLabel };

// Which keys the objects of this answer have, in order.
enum class Shape : uint8_t { kUnknown, kBox, kBoxLabel, kLabelBox };

// What a byte has decided: after "[" whether there are boxes at all, after "}" whether the list
// goes on. A blank after "[" counts as going on and one after "}" as closing: so is every style in
// which the forms are written, and a token may hold no more than that.
enum class Decision : uint8_t { kNone, kClose, kMore };

struct BoxState {
  Phase phase = Phase::kStart;
  uint8_t at = 0;      // bytes of the literal that are there
  uint8_t blanks = 0;  // blanks in a row
  Key key = Key::kNone;
  Shape shape = Shape::kUnknown;
  Decision decision = Decision::kNone;      // the first one since the caller last cleared it
  bool fence = false, bare = false;         // a fence was opened; a single object without a list
  bool has_box = false, has_label = false;  // of the object that is open
  bool blank_closes = true;                 // see Decision; off where the answer shows otherwise
  bool loose = false;    // numbers know no bounds, for prompts about all images at once
  bool touched = false;  // the answer depended on the bounds since the caller last cleared it
  // Of the label:
  uint8_t utf8 = 0, escape = 0;
  bool label_full = false;  // only what completes it may follow
  uint16_t label_bytes = 0;
  // Of the box:
  uint8_t coordinate = 0, digits = 0;
  int32_t value = 0;
  int32_t low[2] = {0, 0};   // x1, y1
  int32_t side[2] = {0, 0};  // width, height

  // Moves on by a byte; false, and an unspecified state, where the byte may not follow. kFree and
  // kEnded take none.
  bool Step(uint8_t byte);

  bool inside() const { return phase >= Phase::kListOpen && phase != Phase::kFree; }
  bool complete() const { return phase >= Phase::kAfterList && phase != Phase::kFree; }
  bool may_end() const {
    return phase == Phase::kAfterFence || phase == Phase::kEnded ||
           (phase == Phase::kAfterList && !fence);
  }
  // Of the number that is open: it may end here; digit `d` may follow.
  bool NumberMayEnd() const;
  bool DigitMayFollow(int d) const;
  // In kAfterPair.
  bool MayHaveSecondPair() const;
  bool MayCloseObject() const;
  // The key that an object, or its second pair, must begin here; kNone where both may.
  Key OnlyKey() const;

  // Between an object's "{" and its "}".
  bool InObject() const { return phase >= Phase::kObjectOpen && phase <= Phase::kSecondKey; }

 private:
  bool StepStart(uint8_t byte);
  bool StepFence(uint8_t byte);
  bool StepList(uint8_t byte);
  bool StepObject(uint8_t byte);
  bool StepNumber(uint8_t byte);
  bool StepLabel(uint8_t byte);
  bool StepBlank();
  bool BeginForm(uint8_t byte);
  bool BeginValue(uint8_t byte);
  bool OpenObject();
  bool CloseObject();
  bool Enter(Phase next);  // true; no blanks are read of it yet
  void Decide(Decision d);
};

}  // namespace chord::grammar
