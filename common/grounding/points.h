// Points in a model's answer: the text form <-> points of the image. Pure text work.
//
// Read are the two forms that models of the Qwen2.5-VL family are taught, in any prose:
//
//   [{"point_2d": [x, y], "label": "cup"}, …]           JSON; keys point_2d, point, points_2d,
//   points;
//                                                       numbers or strings; a list of pairs is
//                                                       several
//   <points x1="12" y1="34" alt="cup">cup</points>      XML; x, y or x1, y1, x2, y2, …; also <point
//   …>
//
// Coordinates are pixels of the resized image, as in boxes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/grounding/confidence.h"
#include "common/image/frame_plan.h"

namespace chord::grounding {

// A point as the model wrote it, with the byte ranges of its coordinates and of its whole object or
// element. Points of one object share `begin` and `end`.
struct RawPoint {
  double x = 0, y = 0;                      // resized px, as written, finite
  std::string label;                        // "" when the model gave none
  size_t begin = 0, end = 0;                // object, bytes of the text
  size_t coords_begin = 0, coords_end = 0;  // its two numbers
};

// Never fails: a text without points has none. In order of the text, exact duplicates removed, at
// most kMaxPoints. An object that the end of the text cuts is left out. Linear in the text's
// length.
inline constexpr size_t kMaxPoints = 4096;
std::vector<RawPoint> ParsePoints(absl::string_view text);

// A pixel of the upright image: 0 <= x < width, 0 <= y < height.
struct PixelPoint {
  int x = 0, y = 0;
  bool operator==(const PixelPoint&) const = default;
};

// Resized px -> the nearest pixel of the upright image; nullopt when the point lies outside the
// resized image.
std::optional<PixelPoint> ToUpright(const RawPoint& point, const image::FramePlan& plan);

// 0 – 1: the geometric mean of the probabilities of the tokens that wrote the coordinates and were
// the model's own choice; 0 when `record` does not fit the text.
double PointConfidence(const RawPoint& point, absl::string_view text, const TokenRecord& record);

// The text with every point as <point>(x,y)</point> in upright px, preceded by its label, and
// without what JSON and XML leave around it. `places[i]` belongs to points[i]; nullopt ones vanish.
std::string RenderPoints(absl::string_view text, absl::Span<const RawPoint> points,
                         absl::Span<const std::optional<PixelPoint>> places);

}  // namespace chord::grounding
