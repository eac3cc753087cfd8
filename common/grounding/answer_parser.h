// An answer's text <-> boxes. Pure text work: no device, no sockets (spec §8).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/image/frame_plan.h"

namespace chord::grounding {

// A box as the model wrote it, with the byte range of its four coordinates and of the whole object
// in the text, so that token probabilities can be attributed to it.
struct RawObject {
  image::BoxF box;                          // resized px, as written (not ordered, not clamped)
  std::string label;                        // "" when the model gave none
  size_t begin = 0, end = 0;                // object, bytes of the text
  size_t coords_begin = 0, coords_end = 0;  // its coordinates
};

struct ParsedAnswer {
  std::vector<RawObject> objects;  // in order of the text; exact duplicates removed
  bool explicit_empty = false;     // the model wrote an empty list
  bool truncated = false;          // the text stops inside a list or an object
};

// Accepts JSON (fence or none, single object, trailing commas, numbers as strings, key variants,
// single quotes, cut text), <box>(x1,y1),(x2,y2)</box> with or without <ref>, and the
// <|box_start|> form. Never fails: text without boxes has no objects.
ParsedAnswer ParseAnswer(absl::string_view text);

// The answer's `text`: what the model wrote, with every box rendered as <box>(x1,y1),(x2,y2)</box>
// in upright px, preceded by its label. `boxes[i]` belongs to parsed.objects[i]; nullopt ones
// vanish.
std::string RenderText(absl::string_view text, const ParsedAnswer& parsed,
                       absl::Span<const std::optional<image::Box>> boxes);

}  // namespace chord::grounding
