// Internal to common/grounding: one pass over an answer that finds every object in it, whichever
// way the model wrote it. json_objects.h and tagged_objects.h each know one family of dialects.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/grounding/answer_parser.h"

namespace chord::grounding::internal {

enum class Form { kJson, kTag };
struct Found {
  RawObject object;
  Form form;
};

// Everything that a text has, duplicates included.
struct Scan {
  std::vector<Found> found;  // by begin
  bool empty_list = false;
  bool truncated = false;
  size_t cut = absl::string_view::npos;  // where the object begins that the text's end cuts
};

// Prose is skipped character by character; a bracket starts an attempt to read JSON, "<" one to
// read a tag. Linear in the length of the text.
Scan ScanAnswer(absl::string_view text);

// scan.found[i] is the first one with its box and label.
std::vector<bool> FirstOccurrences(const Scan& scan);

struct Number {
  double value = 0;
  size_t begin = 0, end = 0;
};
inline constexpr size_t kMaxNumberBytes = 64;
// The number that starts at text[at], finite, followed by no letter. False when there is none.
bool ReadNumber(absl::string_view text, size_t at, Number& out);

// What may stand between the coordinates of a box: blanks, commas, brackets.
bool IsBetweenCoordinates(char c);

}  // namespace chord::grounding::internal
