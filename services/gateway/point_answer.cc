#include "services/gateway/point_answer.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "common/grounding/points.h"

namespace chord::gateway {

void FillPoints(const ModelAnswer& answer, const image::FramePlan& frame, GroundResult& out) {
  out.points.clear();
  const std::vector<grounding::RawPoint> points = grounding::ParsePoints(answer.text);
  if (points.empty()) return;
  std::vector<std::optional<grounding::PixelPoint>> places;
  double least = 1;
  for (const grounding::RawPoint& raw : points) {
    places.push_back(grounding::ToUpright(raw, frame));
    if (!places.back()) continue;
    GroundPoint point;
    point.label = raw.label;
    point.at = *places.back();
    point.confidence = grounding::PointConfidence(raw, answer.text, answer);
    least = std::min(least, point.confidence);
    out.points.push_back(std::move(point));
  }
  if (!out.objects.empty()) return;
  out.text = grounding::RenderPoints(answer.text, points, places);
  out.confidence = out.points.empty() ? 0 : least;
  out.calibrated = false;
  out.advice.clear();
  out.evidence.reset();
}

}  // namespace chord::gateway
