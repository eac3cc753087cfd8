// Any text as an answer with points: ranges lie inside the text and in order, coordinates
// are finite and confidences probabilities.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <vector>

#include "common/grounding/points.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace grounding = chord::grounding;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto points = grounding::ParsePoints(text);
  Require(points.size() <= grounding::kMaxPoints);
  grounding::TokenRecord record;
  for (size_t i = 1; i <= size; ++i) {
    record.token_ends.push_back(static_cast<int64_t>(i));
    record.log_probabilities.push_back(-static_cast<double>(data[i - 1]));
  }
  chord::image::FramePlan frame;
  frame.upright = {640, 480};
  frame.resized = {280, 224};
  std::vector<std::optional<grounding::PixelPoint>> places;
  for (const grounding::RawPoint& point : points) {
    Require(std::isfinite(point.x) && std::isfinite(point.y));
    Require(point.begin <= point.coords_begin && point.coords_begin < point.coords_end &&
            point.coords_end <= point.end && point.end <= size);
    const double confidence = grounding::PointConfidence(point, text, record);
    Require(confidence >= 0 && confidence <= 1);
    places.push_back(grounding::ToUpright(point, frame));
    if (!places.back()) continue;
    Require(places.back()->x >= 0 && places.back()->x < 640);
    Require(places.back()->y >= 0 && places.back()->y < 480);
  }
  grounding::RenderPoints(text, points, places);
  return 0;
}
