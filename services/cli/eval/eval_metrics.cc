#include "services/cli/eval/eval_metrics.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace chord::cli {
namespace {

std::optional<double> Share(double part, int64_t all) {
  if (all == 0) return std::nullopt;
  return part / static_cast<double>(all);
}

double Unit(double v) { return std::isfinite(v) ? std::clamp(v, 0.0, 1.0) : 0.0; }

// What counts as predicted; of a referring expression the first box alone.
absl::Span<const Rect> Counted(const Scored& answer) {
  const absl::Span<const Rect> predicted = answer.predicted;
  return answer.first_box_only ? predicted.subspan(0, std::min<size_t>(1, predicted.size()))
                               : predicted;
}

}  // namespace

double Iou(const Rect& a, const Rect& b) {
  const double w = std::min(a.x2, b.x2) - std::max(a.x1, b.x1);
  const double h = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
  if (!(w > 0) || !(h > 0)) return 0;
  const double both = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1);
  const double out = w * h / (both - w * h);
  return std::isfinite(out) ? std::clamp(out, 0.0, 1.0) : 0.0;
}

Matching Match(absl::Span<const Rect> truth, absl::Span<const Rect> predicted) {
  std::vector<std::tuple<double, size_t, size_t>> pairs;  // -IoU, truth, predicted
  for (size_t i = 0; i < truth.size(); ++i) {
    for (size_t j = 0; j < predicted.size(); ++j) {
      if (const double iou = Iou(truth[i], predicted[j]); iou > 0) pairs.emplace_back(-iou, i, j);
    }
  }
  std::sort(pairs.begin(), pairs.end());
  Matching out{std::vector<double>(truth.size()), std::vector<double>(predicted.size())};
  for (const auto& [negative, i, j] : pairs) {
    if (out.truth[i] == 0 && out.predicted[j] == 0) out.truth[i] = out.predicted[j] = -negative;
  }
  return out;
}

std::vector<CurveBin> Curve(absl::Span<const Claim> claims, int bins) {
  std::vector<CurveBin> out(static_cast<size_t>(std::max(1, bins)));
  for (const Claim& claim : claims) {
    const double p = Unit(claim.confidence);
    const auto at = std::min(out.size() - 1, static_cast<size_t>(p * out.size()));
    ++out[at].count;
    out[at].confidence += p;
    out[at].right += claim.right ? 1 : 0;
  }
  for (CurveBin& bin : out) {
    if (bin.count == 0) continue;
    bin.confidence /= static_cast<double>(bin.count);
    bin.right /= static_cast<double>(bin.count);
  }
  return out;
}

double Ece(absl::Span<const CurveBin> curve) {
  double sum = 0;
  int64_t count = 0;
  for (const CurveBin& bin : curve) {
    sum += static_cast<double>(bin.count) * std::abs(bin.right - bin.confidence);
    count += bin.count;
  }
  return count == 0 ? 0 : sum / static_cast<double>(count);
}

bool IsExact(const Scored& answer) {
  const absl::Span<const Rect> predicted = Counted(answer);
  if (predicted.size() != answer.truth.size()) return false;
  const Matching match = Match(answer.truth, predicted);
  return std::all_of(match.truth.begin(), match.truth.end(),
                     [](double iou) { return iou >= kCorrectIou; });
}

std::vector<bool> RightBoxes(const Scored& answer) {
  const Matching match = Match(answer.truth, answer.predicted);
  std::vector<bool> out;
  for (const double iou : match.predicted) out.push_back(iou >= kCorrectIou);
  return out;
}

void Summary::Add(const Scored& answer) {
  const Matching match = Match(answer.truth, Counted(answer));
  const bool right = IsExact(answer);
  ++count;
  exact += right;
  things += static_cast<int64_t>(answer.truth.size());
  for (const double iou : match.truth) {
    found += iou >= kCorrectIou;
    iou_sum += iou;
  }
  if (answer.truth.size() > 1) {
    ++several;
    several_exact += right;
  }
  if (answer.truth.empty()) {
    ++absent;
    absent_right += right;
  }
  const std::vector<bool> boxes = RightBoxes(answer);
  for (size_t i = 0; i < boxes.size(); ++i) {
    claims.push_back({i < answer.confidences.size() ? answer.confidences[i] : 0, boxes[i]});
  }
  if (boxes.empty()) claims.push_back({answer.confidence, right});
  answers.push_back({answer.confidence, right});
}

std::optional<double> Summary::acc50() const { return Share(static_cast<double>(found), things); }
std::optional<double> Summary::mean_iou() const { return Share(iou_sum, things); }
std::optional<double> Summary::several_exactness() const {
  return Share(static_cast<double>(several_exact), several);
}
std::optional<double> Summary::absent_accuracy() const {
  return Share(static_cast<double>(absent_right), absent);
}

}  // namespace chord::cli
