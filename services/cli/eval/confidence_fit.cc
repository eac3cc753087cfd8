#include "services/cli/eval/confidence_fit.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace chord::cli {
namespace {

using grounding::ConfidenceMap;
using grounding::Knot;
using grounding::MonotoneMap;

constexpr double kRidge = 1;
constexpr int kMaxSteps = 50;
constexpr size_t kMaxBins = 15;
constexpr size_t kLeastBin = 40;  // samples
constexpr size_t kLeastBins = 3;

double Logistic(double v) { return 1 / (1 + std::exp(-v)); }

// Solves A x = b for a symmetric positive definite A (n x n, rows), by Cholesky; the ridge keeps it
// positive definite.
std::vector<double> Solve(std::vector<double> a, std::vector<double> b) {
  const size_t n = b.size();
  for (size_t j = 0; j < n; ++j) {
    for (size_t k = 0; k < j; ++k) a[j * n + j] -= a[j * n + k] * a[j * n + k];
    a[j * n + j] = std::sqrt(std::max(a[j * n + j], 1e-12));
    for (size_t i = j + 1; i < n; ++i) {
      for (size_t k = 0; k < j; ++k) a[i * n + j] -= a[i * n + k] * a[j * n + k];
      a[i * n + j] /= a[j * n + j];
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t k = 0; k < i; ++k) b[i] -= a[i * n + k] * b[k];
    b[i] /= a[i * n + i];
  }
  for (size_t i = n; i-- > 0;) {
    for (size_t k = i + 1; k < n; ++k) b[i] -= a[k * n + i] * b[k];
    b[i] /= a[i * n + i];
  }
  return b;
}

// Weights of the features and, last, the bias.
std::vector<double> Regress(absl::Span<const FitSample> samples, size_t features) {
  const auto n = static_cast<double>(samples.size());
  std::vector<double> mean(features), spread(features);
  for (const FitSample& sample : samples) {
    for (size_t f = 0; f < features; ++f) mean[f] += sample.features[f] / n;
  }
  for (const FitSample& sample : samples) {
    for (size_t f = 0; f < features; ++f) {
      spread[f] += (sample.features[f] - mean[f]) * (sample.features[f] - mean[f]) / n;
    }
  }
  for (double& s : spread) s = s > 1e-6 ? std::sqrt(s) : 0;  // a constant says nothing

  // Platt's targets: a sample more of either outcome, so that a few of one kind prove nothing.
  double right = 0;
  for (const FitSample& sample : samples) right += sample.right ? 1 : 0;
  const double yes = (right + 1) / (right + 2), no = 1 / (n - right + 2);

  const size_t size = features + 1;
  std::vector<double> w(size), x(size, 1);
  for (int step = 0; step < kMaxSteps; ++step) {
    std::vector<double> hessian(size * size), gradient(size);
    for (size_t i = 0; i < size; ++i) {
      const double ridge = i < features ? kRidge : 1e-6;
      hessian[i * size + i] = ridge;
      gradient[i] = -ridge * w[i];
    }
    for (const FitSample& sample : samples) {
      double score = w[features];
      for (size_t f = 0; f < features; ++f) {
        x[f] = spread[f] > 0 ? (sample.features[f] - mean[f]) / spread[f] : 0;
        score += w[f] * x[f];
      }
      const double p = Logistic(score);
      const double curve = std::max(p * (1 - p), 1e-9);
      for (size_t i = 0; i < size; ++i) {
        gradient[i] += ((sample.right ? yes : no) - p) * x[i];
        for (size_t j = 0; j <= i; ++j) hessian[i * size + j] += curve * x[i] * x[j];
      }
    }
    const std::vector<double> change = Solve(std::move(hessian), std::move(gradient));
    double largest = 0;
    for (size_t i = 0; i < size; ++i) {
      w[i] += std::clamp(change[i], -2.0, 2.0);  // Newton may overshoot where outcomes separate
      largest = std::max(largest, std::abs(change[i]));
    }
    if (largest < 1e-9) break;
  }
  for (size_t f = 0; f < features; ++f) {
    w[f] = spread[f] > 0 ? w[f] / spread[f] : 0;
    w[features] -= w[f] * mean[f];
  }
  return w;
}

// The regression's own curve, for samples too few to see another shape in them.
std::vector<Knot> LogisticKnots(const std::vector<std::pair<double, bool>>& scored) {
  std::vector<Knot> out;
  for (int i = -8; i <= 8; ++i) out.push_back({0.75 * i, Logistic(0.75 * i), 0});
  for (const auto& [score, right] : scored) {
    const auto nearest = std::lround(std::clamp(score / 0.75, -8.0, 8.0)) + 8;
    ++out[static_cast<size_t>(nearest)].count;
  }
  return out;
}

uint64_t Fnv(const std::string& text) {
  uint64_t hash = 14695981039346656037u;
  for (const unsigned char c : text) hash = (hash ^ c) * 1099511628211u;
  return hash ^ hash >> 32;
}

// Words without a list state nothing, whatever the map.
bool StatesAbsence(const FitAnswer& answer) { return answer.raw_confidence > 0; }

std::vector<double> BoxConfidences(const FitAnswer& answer, const ConfidenceMap* map) {
  if (map == nullptr) return answer.raw_boxes;
  std::vector<double> out;
  for (const auto& features : answer.boxes) {
    out.push_back(grounding::Probability(map->box, features));
  }
  return out;
}

std::vector<double> AnswerFeatures(const FitAnswer& answer, const ConfidenceMap& map) {
  const auto features =
      grounding::MakeAnswerEvidence(BoxConfidences(answer, &map), answer.ends, answer.cut);
  return {features.begin(), features.end()};
}

}  // namespace

std::vector<double> PoolAdjacentViolators(absl::Span<const double> values,
                                          absl::Span<const double> weights) {
  struct Block {
    double sum, weight;
    size_t size;
    double mean() const { return sum / weight; }
  };
  std::vector<Block> blocks;
  for (size_t i = 0; i < values.size(); ++i) {
    blocks.push_back({values[i] * weights[i], weights[i], 1});
    while (blocks.size() > 1 && blocks[blocks.size() - 2].mean() >= blocks.back().mean()) {
      const Block last = blocks.back();
      blocks.pop_back();
      blocks.back().sum += last.sum;
      blocks.back().weight += last.weight;
      blocks.back().size += last.size;
    }
  }
  std::vector<double> out;
  for (const Block& block : blocks) out.insert(out.end(), block.size, block.mean());
  return out;
}

MonotoneMap FitMap(absl::Span<const FitSample> samples, size_t features) {
  MonotoneMap out;
  out.weights.assign(features, 0.0);
  if (samples.empty()) {
    out.knots = {{0, 0.5, 0}};
    return out;
  }
  const std::vector<double> w = Regress(samples, features);
  out.weights.assign(w.begin(), w.begin() + static_cast<std::ptrdiff_t>(features));
  out.bias = w[features];

  std::vector<std::pair<double, bool>> scored;
  for (const FitSample& sample : samples) {
    scored.emplace_back(grounding::Score(out, sample.features), sample.right);
  }
  std::sort(scored.begin(), scored.end());
  const size_t bins = std::clamp<size_t>(scored.size() / kLeastBin, 1, kMaxBins);
  if (bins < kLeastBins) {
    out.knots = LogisticKnots(scored);
    return out;
  }
  std::vector<Knot> knots;
  std::vector<double> shares, weights;
  size_t begin = 0;
  for (size_t b = 0; b < bins && begin < scored.size(); ++b) {
    size_t end = std::max(begin + 1, scored.size() * (b + 1) / bins);
    while (end < scored.size() && scored[end].first == scored[end - 1].first) ++end;
    double score = 0, right = 0;
    for (size_t i = begin; i < end; ++i) {
      score += scored[i].first;
      right += scored[i].second ? 1 : 0;
    }
    const auto n = static_cast<double>(end - begin);
    knots.push_back({score / n, 0, static_cast<int64_t>(end - begin)});
    // Nothing is certain: half a sample of either outcome (Jeffreys).
    shares.push_back((right + 0.5) / (n + 1));
    weights.push_back(n);
    begin = end;
  }
  const std::vector<double> rising = PoolAdjacentViolators(shares, weights);
  for (size_t i = 0; i < knots.size(); ++i) {
    knots[i].probability = rising[i];
    // Scores that the file's six digits could not tell apart would make it invalid.
    const bool apart = out.knots.empty() || knots[i].score - out.knots.back().score >
                                                1e-4 * std::max(1.0, std::abs(knots[i].score));
    if (apart) {
      out.knots.push_back(knots[i]);
    } else {
      out.knots.back().count += knots[i].count;
      out.knots.back().probability = rising[i];
    }
  }
  return out;
}

ConfidenceMap FitConfidence(absl::Span<const FitAnswer> answers) {
  ConfidenceMap out;
  grounding::FittedOn& on = out.fitted_on;
  std::vector<FitSample> boxes, absences, wholes;
  for (const FitAnswer& answer : answers) {
    for (size_t i = 0; i < answer.boxes.size(); ++i) {
      boxes.push_back({answer.boxes[i], answer.boxes_right[i]});
      on.boxes_right += answer.boxes_right[i];
    }
    if (answer.boxes.empty() && StatesAbsence(answer)) {
      absences.push_back({answer.absent, answer.right});
      on.absences_right += answer.right;
    }
  }
  out.box = FitMap(boxes, grounding::kBoxFeatures);
  out.absent = FitMap(absences, grounding::kAbsentFeatures);
  for (const FitAnswer& answer : answers) {
    if (answer.boxes.empty()) continue;
    wholes.push_back({AnswerFeatures(answer, out), answer.right});
    on.answers_right += answer.right;
  }
  out.answer = FitMap(wholes, grounding::kAnswerFeatures);
  on.prompts = static_cast<int64_t>(answers.size());
  on.boxes = static_cast<int64_t>(boxes.size());
  on.absences = static_cast<int64_t>(absences.size());
  on.answers = static_cast<int64_t>(wholes.size());
  return out;
}

Claim WholeClaim(const FitAnswer& answer, const ConfidenceMap* map) {
  if (map == nullptr) return {answer.raw_confidence, answer.right};
  if (answer.boxes.empty()) {
    const double p =
        StatesAbsence(answer) ? grounding::Probability(map->absent, answer.absent) : 0.0;
    return {p, answer.right};
  }
  double p = grounding::Probability(map->answer, AnswerFeatures(answer, *map));
  for (const double box : BoxConfidences(answer, map)) p = std::min(p, box);
  return {p, answer.right};
}

std::vector<Claim> Claims(const FitAnswer& answer, const ConfidenceMap* map) {
  if (answer.boxes.empty()) return {WholeClaim(answer, map)};
  const std::vector<double> confidences = BoxConfidences(answer, map);
  std::vector<Claim> out;
  for (size_t i = 0; i < confidences.size(); ++i) {
    out.push_back({confidences[i], answer.boxes_right[i]});
  }
  return out;
}

FitQuality CrossValidate(absl::Span<const FitAnswer> answers, int folds) {
  std::vector<Claim> raw, fitted, wholes_raw, wholes;
  for (int fold = 0; fold < folds; ++fold) {
    std::vector<FitAnswer> others;
    std::vector<const FitAnswer*> mine;
    for (const FitAnswer& answer : answers) {
      if (static_cast<int>(Fnv(answer.image) % static_cast<uint64_t>(folds)) == fold) {
        mine.push_back(&answer);
      } else {
        others.push_back(answer);
      }
    }
    const ConfidenceMap map = FitConfidence(others);
    for (const FitAnswer* answer : mine) {
      for (const Claim& claim : Claims(*answer, nullptr)) raw.push_back(claim);
      for (const Claim& claim : Claims(*answer, &map)) fitted.push_back(claim);
      wholes_raw.push_back(WholeClaim(*answer, nullptr));
      wholes.push_back(WholeClaim(*answer, &map));
    }
  }
  return {Ece(Curve(raw)), Ece(Curve(fitted)), Ece(Curve(wholes_raw)), Ece(Curve(wholes))};
}

}  // namespace chord::cli
