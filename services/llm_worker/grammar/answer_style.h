// How one answer writes its white space: learnt from what is there, used to predict the rest.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "services/llm_worker/grammar/box_automaton.h"

namespace chord::grammar {

// At most kMaxBlanks blanks, without a heap allocation.
struct Blanks {
  uint8_t size = 0;
  std::array<char, kMaxBlanks> bytes{};

  absl::string_view view() const { return absl::string_view(bytes.data(), size); }
  void Push(char c) {
    if (size < bytes.size()) bytes[size++] = c;
  }
};

// The gaps between the bytes of an answer that may hold blanks, each with what follows it.
enum Gap : uint8_t {
  kFirstObject,   // "[" _ "{"
  kFirstKey,      // "{" _ "\""
  kBoxColon,      // "bbox_2d" _ ":"
  kLabelColon,    // "label" _ ":"
  kBoxValue,      // ":" _ "["
  kLabelValue,    // ":" _ "\""
  kBeforeNumber,  // one for each coordinate
  kAfterNumber = kBeforeNumber + 4,
  kPairComma = kAfterNumber + 4,  // value _ ","
  kObjectEnd,                     // value _ "}"
  kSecondPair,                    // "," _ "\""
  kListComma,                     // "}" _ ","
  kListEnd,                       // "}" _ "]"
  kLaterObject,                   // "," _ "{"
  kFenceEnd,                      // "]" _ "```"
  kGaps
};

// The white space that an answer has written so far, by gap.
struct AnswerStyle {
  enum Knowledge : uint8_t { kUnknown, kKnown, kMixed };
  std::array<Blanks, kGaps> blanks;  // the last seen
  std::array<Knowledge, kGaps> knowledge{};

  void Learn(Gap gap, const Blanks& seen) {
    if (knowledge[gap] == kUnknown) {
      knowledge[gap] = kKnown;
    } else if (blanks[gap].view() != seen.view()) {
      knowledge[gap] = kMixed;
    }
    blanks[gap] = seen;
  }
};

// The gap that `state` is in, if the next byte that is not a blank is `next`.
std::optional<Gap> GapOf(const BoxState& state, char next);

}  // namespace chord::grammar
