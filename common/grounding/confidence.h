// How sure the model was of its answer, read off its own probabilities: features ("evidence"), raw
// scores, and a fitted map from evidence to the probability of being right. Pure code over plain
// data; the worker's numbers are not trusted: whatever they are, every result is finite and
// bounded.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/list_choice.h"
#include "common/grounding/answer_parser.h"

namespace chord::grounding {

// Changes whenever a feature below changes its meaning: a map fitted on another version is foreign.
inline constexpr int kEvidenceVersion = 1;

// What the language worker says of one answer. `token_ends[i]` is the byte offset just after token
// i, `log_probabilities[i]` its natural log probability before any mask or penalty.
struct TokenRecord {
  std::vector<int64_t> token_ends;
  std::vector<double> log_probabilities;
  std::vector<bool> forced;  // empty: none was; else one a token
  std::vector<ListChoice> choices;
  std::optional<double> log_probability_empty;
  bool cut = false;  // the text ends before the answer was whole
};

// Evidence for one box. All logarithms are natural, all values within [-kBound, kBound].
enum BoxFeature {
  kCoordinates,  // sum of the coordinate tokens' log probabilities over 4: per coordinate
  kLeast,        // the least log probability among those tokens
  kFollows,      // log odds that a box follows here rather than the end of the list
  kLabel,        // sum of log probabilities of the object's other tokens (its label, above all)
  kSide,         // log of the shorter side in px of the resized image
  kBoxFeatures,
};
// Evidence for "nothing is there", of an answer without boxes.
enum AbsentFeature {
  kEmpty,  // log odds of the empty list against a box
  kWords,  // mean log probability of the answer's tokens that were not forced
  kAbsentFeatures,
};
// Evidence for "these boxes and no others", of an answer with boxes; made from its boxes'
// confidences.
enum AnswerFeature {
  kWeakest,  // log of the least confidence of a box
  kAll,      // sum of the logs of all boxes' confidences
  kEnds,     // log odds that the list ends after the last box rather than goes on
  kCut,      // 1 when the answer was cut
  kAnswerFeatures,
};
inline constexpr double kBound = 30;
using BoxEvidence = std::array<double, kBoxFeatures>;
using AbsentEvidence = std::array<double, kAbsentFeatures>;
using AnswerEvidence = std::array<double, kAnswerFeatures>;

struct Evidence {
  // False: the worker sent no probabilities that fit the text, and nothing below means anything.
  bool usable = false;
  std::vector<BoxEvidence> boxes;  // one for each parsed object
  std::vector<double> raw_boxes;   // their confidences while no map is known, 0 - 1
  AbsentEvidence absent{};         // meaningful without objects
  double raw_absent = 0;           // 0 - 1
  double ends = 0;                 // AnswerFeature::kEnds
  bool cut = false;
};

// `parsed` must come from ParseAnswer(text). Places that the grammar recorded are used where they
// lie at the right place; without them the same is read off the tokens between the boxes.
//
// Raw scores: of a box, the geometric mean of the probabilities of its coordinate tokens that were
// not forced, times the probability that a box follows there (1 when unknown); of an absence, the
// probability of the empty list when it is known, else the geometric mean over the tokens of a list
// that was written as empty, else 0: words without a list say nothing about absence.
Evidence GatherEvidence(absl::string_view text, const ParsedAnswer& parsed,
                        const TokenRecord& record);

// `confidences` of the answer's boxes, at least one.
AnswerEvidence MakeAnswerEvidence(absl::Span<const double> confidences, double ends, bool cut);

// A monotone map: a linear score of the features, then linear interpolation between knots, flat
// beyond the first and the last.
struct Knot {
  double score = 0;
  double probability = 0;  // 0 - 1, never falling from knot to knot
  int64_t count = 0;       // samples it was fitted on
};
struct MonotoneMap {
  double bias = 0;
  std::vector<double> weights;  // one a feature
  std::vector<Knot> knots;      // 1 - kMaxKnots, scores ascending
};
inline constexpr size_t kMaxKnots = 64;

double Score(const MonotoneMap& map, absl::Span<const double> features);
// 0 - 1. `features` must be as many as the weights.
double Probability(const MonotoneMap& map, absl::Span<const double> features);

// What a map was fitted on, for people: it decides nothing.
struct FittedOn {
  std::string data;    // file name
  std::string sha256;  // of the annotations and all images; 64 hex digits
  int64_t prompts = 0;
  int64_t boxes = 0, boxes_right = 0;
  int64_t absences = 0, absences_right = 0;  // answers without boxes
  int64_t answers = 0, answers_right = 0;    // answers with boxes
  double ece_raw = 0;                        // of the raw scores
  double ece_cross_validated = 0;
};

struct ConfidenceMap {
  std::string model_fingerprint;  // 64 hex digits
  MonotoneMap box, absent, answer;
  FittedOn fitted_on;
};

inline constexpr char kConfidenceFile[] = "confidence.json";
inline constexpr int64_t kMaxConfidenceFileBytes = 256 << 10;

// One JSON object, 6 significant digits, no date: equal fits give equal bytes.
std::string ToJson(const ConfidenceMap& map);
// CHECKPOINT_INVALID says what is wrong: not strict JSON, an unknown or missing key, another
// version, wrong features, knots that fall, numbers out of range.
absl::StatusOr<ConfidenceMap> ParseConfidenceMap(absl::string_view json);

// The map of a model folder; nullopt when it has none. CHECKPOINT_INVALID as above, and when the
// map was fitted for another model than `fingerprint`.
absl::StatusOr<std::optional<ConfidenceMap>> LoadConfidenceMap(const std::string& model_dir,
                                                               absl::string_view fingerprint);

}  // namespace chord::grounding
