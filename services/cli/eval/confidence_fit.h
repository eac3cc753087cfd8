// Fits the map from evidence to confidence (common/grounding/confidence.h). Pure and repeatable:
// the same samples in the same order give the same map, to the bit.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "common/grounding/confidence.h"
#include "services/cli/eval/eval_metrics.h"

namespace chord::cli {

// Logistic regression with a ridge of 1 on standardised features gives the score; pool-adjacent-
// violators over up to 15 bins of equal counts, of 40 samples or more, gives its monotone map; of
// fewer than 120 samples the map is the regression's own curve.
struct FitSample {
  std::vector<double> features;
  bool right = false;
};
grounding::MonotoneMap FitMap(absl::Span<const FitSample> samples, size_t features);

// Pool-adjacent-violators (Ayer et al. 1955): the non-decreasing sequence nearest to `values` in
// weighted squares. Weights must be positive.
std::vector<double> PoolAdjacentViolators(absl::Span<const double> values,
                                          absl::Span<const double> weights);

// One answer, judged.
struct FitAnswer {
  std::string image;  // answers about one image stay together in cross-validation
  std::vector<std::vector<double>> boxes;  // evidence of each box
  std::vector<bool> boxes_right;
  std::vector<double> raw_boxes;
  std::vector<double> absent;  // evidence, when there are no boxes
  double ends = 0;
  bool cut = false;
  double raw_confidence = 0;
  bool right = false;  // the whole answer
};

// All three maps and the counts; names, hashes and fingerprints are the caller's.
grounding::ConfidenceMap FitConfidence(absl::Span<const FitAnswer> answers);

// The claims of an answer (every box, or the absence) as a map states them, or raw.
std::vector<Claim> Claims(const FitAnswer& answer, const grounding::ConfidenceMap* map);
// The answer as a whole, likewise; the same rule as the gateway's.
Claim WholeClaim(const FitAnswer& answer, const grounding::ConfidenceMap* map);

struct FitQuality {
  double ece_raw = 0;
  double ece = 0;              // every answer stated by a map that was not fitted on its image
  double ece_answers_raw = 0;  // of answers as wholes
  double ece_answers = 0;
};
FitQuality CrossValidate(absl::Span<const FitAnswer> answers, int folds = 5);

}  // namespace chord::cli
