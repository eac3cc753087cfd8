#include "common/grounding/confidence.h"

#include <algorithm>
#include <cmath>

namespace chord::grounding {
namespace {

// A log probability may exceed 0 by rounding.
constexpr double kRounding = 1e-6;

double Bounded(double v) { return std::isnan(v) ? 0.0 : std::clamp(v, -kBound, kBound); }

bool IsLogProbability(double v) { return std::isfinite(v) && v <= kRounding; }

// log(e^yes / (e^yes + e^no)) and its log odds only need the difference.
double LogShare(double log_odds) {
  return log_odds >= 0 ? -std::log1p(std::exp(-log_odds))
                       : log_odds - std::log1p(std::exp(log_odds));
}

// Log odds of an event from its log probability.
double LogOdds(double log_p) {
  if (log_p >= -1e-13) return kBound;
  return Bounded(log_p - std::log(-std::expm1(log_p)));
}

// Ends must ascend inside the text and every probability be one, or none of them counts.
bool Consistent(absl::string_view text, const TokenRecord& record) {
  if (record.token_ends.size() != record.log_probabilities.size()) return false;
  if (!record.forced.empty() && record.forced.size() != record.token_ends.size()) return false;
  int64_t last = 0;
  for (const int64_t end : record.token_ends) {
    if (end < last || end > static_cast<int64_t>(text.size())) return false;
    last = end;
  }
  return !record.token_ends.empty() &&
         std::all_of(record.log_probabilities.begin(), record.log_probabilities.end(),
                     IsLogProbability);
}

struct Sum {
  double total = 0, least = 0;
  int tokens = 0;
  double mean() const { return tokens == 0 ? 0 : total / tokens; }
};

class Tokens {
 public:
  explicit Tokens(const TokenRecord& record) : record_(record) {}

  // Over the tokens that wrote a byte of [begin, end) and were the model's own choice.
  Sum Over(size_t begin, size_t end) const {
    Sum out;
    const auto& ends = record_.token_ends;
    size_t i = static_cast<size_t>(
        std::upper_bound(ends.begin(), ends.end(), static_cast<int64_t>(begin)) - ends.begin());
    for (; i < ends.size(); ++i) {
      const int64_t from = i == 0 ? 0 : ends[i - 1];
      if (from >= static_cast<int64_t>(end)) break;
      if (from == ends[i]) continue;  // wrote nothing
      if (!record_.forced.empty() && record_.forced[i]) continue;
      const double p = std::min(record_.log_probabilities[i], 0.0);
      out.total += p;
      out.least = std::min(out.least, p);
      ++out.tokens;
    }
    return out;
  }

 private:
  const TokenRecord& record_;
};

// The recorded choice that lies in [begin, end], if it is one.
const ListChoice* FindChoice(const TokenRecord& record, size_t begin, size_t end) {
  for (const ListChoice& choice : record.choices) {
    if (choice.offset < static_cast<int64_t>(begin) || choice.offset > static_cast<int64_t>(end)) {
      continue;
    }
    if (!IsLogProbability(choice.log_close) || !IsLogProbability(choice.log_more)) continue;
    return &choice;
  }
  return nullptr;
}

bool KnowsEmpty(const TokenRecord& record) {
  return record.log_probability_empty && IsLogProbability(*record.log_probability_empty);
}

// Log odds that object `i`, which begins at `begin`, follows what ended at `before`: from the best
// source there is.
std::optional<double> LogOddsOfBox(const TokenRecord& record, const Tokens& tokens, size_t i,
                                   size_t before, size_t begin) {
  if (const ListChoice* choice = FindChoice(record, std::min(before, begin), begin)) {
    return choice->log_more - choice->log_close;
  }
  if (i == 0 && KnowsEmpty(record)) return -LogOdds(*record.log_probability_empty);
  if (const Sum gap = tokens.Over(before, begin); i > 0 && gap.tokens > 0) {
    return LogOdds(gap.total);
  }
  return std::nullopt;
}

struct ObjectEvidence {
  BoxEvidence box{};
  double raw = 0;
};

// Of object `i`; the one before it ended at `before`.
ObjectEvidence GatherObject(const RawObject& object, size_t i, size_t before,
                            const TokenRecord& record, const Tokens& tokens) {
  ObjectEvidence out;
  const Sum coordinates = tokens.Over(object.coords_begin, object.coords_end);
  const Sum whole = tokens.Over(std::max(object.begin, before), object.end);
  const std::optional<double> follows = LogOddsOfBox(record, tokens, i, before, object.begin);
  out.box[kCoordinates] = Bounded(coordinates.total / 4);
  out.box[kLeast] = Bounded(coordinates.least);
  out.box[kFollows] = Bounded(follows.value_or(kBound));
  out.box[kLabel] = Bounded(whole.total - coordinates.total);
  const double side =
      std::min(std::abs(object.box.x2 - object.box.x1), std::abs(object.box.y2 - object.box.y1));
  out.box[kSide] = std::isfinite(side) ? Bounded(std::log(std::max(side, 1.0))) : 0;
  if (coordinates.tokens > 0) {
    const double log_follows = follows ? LogShare(out.box[kFollows]) : 0;
    out.raw = std::clamp(std::exp(coordinates.mean() + log_follows), 0.0, 1.0);
  }
  return out;
}

// Fills `absent` and `raw_absent` of an answer without objects.
void GatherAbsence(absl::string_view text, const ParsedAnswer& parsed, const TokenRecord& record,
                   const Tokens& tokens, Evidence& out) {
  // A truncated answer is closed with text that no token of the model wrote.
  const bool closed_by_us =
      record.cut && record.token_ends.back() < static_cast<int64_t>(text.size());
  const Sum words = tokens.Over(0, text.size());
  std::optional<double> empty;
  if (const ListChoice* first = FindChoice(record, 0, text.size())) {
    empty = Bounded(first->log_close - first->log_more);
  } else if (KnowsEmpty(record)) {
    empty = LogOdds(*record.log_probability_empty);
  }
  out.absent[kWords] = Bounded(words.mean());
  if (empty) {
    out.absent[kEmpty] = *empty;
    out.raw_absent = std::exp(LogShare(*empty));
  } else if (parsed.explicit_empty && words.tokens > 0 && !closed_by_us) {
    out.absent[kEmpty] = LogOdds(words.mean());
    out.raw_absent = std::exp(words.mean());
  } else {
    out.absent[kEmpty] = -kBound;
  }
}

// Log odds that the list ends after the last object, which ended at `before`.
double LogOddsOfEnd(absl::string_view text, size_t before, const TokenRecord& record,
                    const Tokens& tokens) {
  if (const ListChoice* last = FindChoice(record, before, text.size())) {
    return Bounded(last->log_close - last->log_more);
  }
  // The list's end is the next byte after the last box.
  const Sum tail = tokens.Over(before, std::min(before + 1, text.size()));
  return tail.tokens > 0 ? LogOdds(tail.total) : 0;
}

}  // namespace

Evidence GatherEvidence(absl::string_view text, const ParsedAnswer& parsed,
                        const TokenRecord& record) {
  Evidence out;
  out.cut = record.cut || parsed.truncated;
  out.boxes.assign(parsed.objects.size(), BoxEvidence{});
  out.raw_boxes.assign(parsed.objects.size(), 0.0);
  out.usable = Consistent(text, record);
  if (!out.usable) {
    // The empty list's probability stands by itself.
    if (parsed.objects.empty() && KnowsEmpty(record)) {
      out.raw_absent = std::exp(std::min(*record.log_probability_empty, 0.0));
    }
    return out;
  }
  const Tokens tokens(record);
  if (parsed.objects.empty()) {
    GatherAbsence(text, parsed, record, tokens, out);
    return out;
  }
  size_t before = 0;  // where the object before ended
  for (size_t i = 0; i < parsed.objects.size(); ++i) {
    const RawObject& object = parsed.objects[i];
    const ObjectEvidence evidence = GatherObject(object, i, before, record, tokens);
    out.boxes[i] = evidence.box;
    out.raw_boxes[i] = evidence.raw;
    before = std::max(before, object.end);
  }
  out.ends = LogOddsOfEnd(text, before, record, tokens);
  return out;
}

AnswerEvidence MakeAnswerEvidence(absl::Span<const double> confidences, double ends, bool cut) {
  AnswerEvidence out{};
  for (const double confidence : confidences) {
    const double log_p = Bounded(std::log(std::clamp(confidence, 1e-12, 1.0)));
    out[kWeakest] = std::min(out[kWeakest], log_p);
    out[kAll] += log_p;
  }
  out[kAll] = Bounded(out[kAll]);
  out[kEnds] = Bounded(ends);
  out[kCut] = cut ? 1 : 0;
  return out;
}

double Score(const MonotoneMap& map, absl::Span<const double> features) {
  double score = map.bias;
  const size_t n = std::min(features.size(), map.weights.size());
  for (size_t i = 0; i < n; ++i) score += map.weights[i] * features[i];
  return std::isfinite(score) ? score : 0;
}

double Probability(const MonotoneMap& map, absl::Span<const double> features) {
  if (map.knots.empty()) return 0;
  const double score = Score(map, features);
  const auto above = std::upper_bound(map.knots.begin(), map.knots.end(), score,
                                      [](double s, const Knot& knot) { return s < knot.score; });
  if (above == map.knots.begin()) return map.knots.front().probability;
  if (above == map.knots.end()) return map.knots.back().probability;
  const Knot& low = *(above - 1);
  const double share = (score - low.score) / (above->score - low.score);
  return std::clamp(low.probability + share * (above->probability - low.probability), 0.0, 1.0);
}

}  // namespace chord::grounding
