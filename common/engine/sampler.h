// Choosing the next token from one row of logits (spec §7.2). The functions here run on the host;
// LanguageModel::StepAndSample applies the same rules on the device that computed the logits.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace chord::engine {

// Ids seen by a sequence, for the repetition penalty: each counts once.
class SeenTokens {
 public:
  explicit SeenTokens(int vocab_size) : seen_(vocab_size, false) {}
  void Add(int32_t id);
  void Add(absl::Span<const int32_t> ids);
  absl::Span<const int32_t> ids() const { return order_; }

 private:
  std::vector<bool> seen_;
  std::vector<int32_t> order_;
};

// In place: z < 0 ? z·penalty : z/penalty for every seen id, once.
void ApplyRepetitionPenalty(absl::Span<float> logits, const SeenTokens& seen, float penalty);

// Lowest id among equals. NaN never wins; all-NaN returns 0.
int32_t Argmax(absl::Span<const float> logits);
// The same among the ids whose bit is set (bit i % 64 of word i / 64); -1 when there is none.
int32_t ArgmaxAllowed(absl::Span<const float> logits, absl::Span<const uint64_t> allowed);

// Natural log of softmax(logits)[id], in double.
double LogProbability(absl::Span<const float> logits, int32_t id);

// A set of token ids: bit i % 64 of word i / 64. Words past the end of the span are zero.
using IdSet = absl::Span<const uint64_t>;

// How the token after one row of logits is chosen, and what else is reported about that row.
// All spans are owned by the caller and must stay valid until the call returns.
struct SampleSpec {
  IdSet allowed = {};                        // ids that may be chosen; empty: every id
  absl::Span<const int32_t> penalized = {};  // ids under the repetition penalty, each once
  float repetition_penalty = 1.0f;
  absl::Span<const IdSet> mass_sets = {};  // sets whose probability mass is reported
};

struct SampledToken {
  int32_t id = -1;             // -1: `allowed` holds no id of the vocabulary
  bool finite = true;          // false: a logit is NaN or infinite; the other fields are undefined
  double log_probability = 0;  // natural, of `id`, before penalty and mask
  // Natural log of the probability mass of each set, before penalty and mask; -inf when it is zero.
  std::vector<double> log_mass;
};

// The rule itself, on the host: penalty, then mask, then the largest (lowest id among equals).
SampledToken SampleToken(absl::Span<const float> logits, const SampleSpec& spec);

}  // namespace chord::engine
