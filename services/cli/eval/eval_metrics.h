// What `chord eval` measures; docs/eval.md has the formulas. Pure code over plain data.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"

namespace chord::cli {

struct Rect {
  double x1 = 0, y1 = 0, x2 = 0, y2 = 0;
};

inline constexpr double kCorrectIou = 0.5;

// Intersection over union, 0 - 1; 0 for rectangles without area or with coordinates that are no
// numbers.
double Iou(const Rect& a, const Rect& b);

// One to one, best pairs first, ties by the order of the lists. Every entry is the IoU with its own
// partner, 0 without one.
struct Matching {
  std::vector<double> truth;
  std::vector<double> predicted;
};
Matching Match(absl::Span<const Rect> truth, absl::Span<const Rect> predicted);

// A claim with a confidence: "this box is right", "it is not there".
struct Claim {
  double confidence = 0;
  bool right = false;
};

// Bins of equal width over 0 - 1; a confidence on an edge belongs to the upper bin, 1 to the last.
struct CurveBin {
  int64_t count = 0;
  double confidence = 0;  // mean; 0 when empty
  double right = 0;       // share; 0 when empty
};
inline constexpr int kCurveBins = 10;
std::vector<CurveBin> Curve(absl::Span<const Claim> claims, int bins = kCurveBins);
// Expected calibration error, 0 - 1: mean of |right - confidence| weighted by count. 0 when empty.
double Ece(absl::Span<const CurveBin> curve);

// What was asked and what came back.
struct Scored {
  std::vector<Rect> truth, predicted;
  std::vector<double> confidences;  // one for each of `predicted`
  double confidence = 0;            // of the answer
  bool first_box_only = false;
};

// As many boxes as there are things, each over IoU 0.5 with its own; for first_box_only, the first
// box over IoU 0.5.
bool IsExact(const Scored& answer);
// Of each box of the answer: whether it is right.
std::vector<bool> RightBoxes(const Scored& answer);

struct Summary {
  int64_t count = 0, exact = 0;
  int64_t things = 0, found = 0;  // truth boxes; those found at IoU 0.5
  double iou_sum = 0;             // over truth boxes
  int64_t several = 0, several_exact = 0;
  int64_t absent = 0, absent_right = 0;
  std::vector<Claim> claims;   // every box, and every answer without boxes
  std::vector<Claim> answers;  // every answer as a whole

  void Add(const Scored& answer);
  // Nothing without anything to divide by.
  std::optional<double> acc50() const;
  std::optional<double> mean_iou() const;
  std::optional<double> several_exactness() const;
  std::optional<double> absent_accuracy() const;
};

}  // namespace chord::cli
