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

// How a token is drawn. With temperature 0 the most probable id is taken and the rest has no
// meaning. Otherwise, over the ids that are allowed:
//
//   p_i ~ exp(z_i / temperature), z after the repetition penalty;
//   with top_p < 1 only the most probable ids remain, as few as have a mass of at least top_p
//   (largest first, lowest id first among equals; at least one);
//   of these, in that order (by id when top_p is 1), the first whose cumulative share exceeds
//   UniformAt(seed, index) (philox.h).
//
// So the token is a function of the logits, the seed and `index`, the token's number in its answer.
// A backend that chooses on its own device must give the same token or leave the row to the host:
// see NeedsHost.
struct Randomness {
  float temperature = 0;  // >= 0
  float top_p = 1;        // 0 .. 1; 0: the most probable token
  uint64_t seed = 0;
  uint64_t index = 0;  // of the token in its answer
};
inline constexpr int kMaxTop = 20;

// How the token after one row of logits is chosen, and what else is reported about that row.
// All spans are owned by the caller and must stay valid until the call returns.
struct SampleSpec {
  IdSet allowed = {};                        // ids that may be chosen; empty: every id
  absl::Span<const int32_t> penalized = {};  // ids under the repetition penalty, each once
  float repetition_penalty = 1.0f;
  absl::Span<const IdSet> mass_sets = {};  // sets whose probability mass is reported
  Randomness randomness = {};
  int top = 0;  // how many of the most probable ids are reported; 0 .. kMaxTop
  // What lets a backend leave out rows that will not be read, among the rows of one chunk; their
  // tokens are undefined. A backend may as well sample them all.
  bool read = true;       // false: the token of this row is known and not read
  int32_t expected = -1;  // >= 0: when another id is chosen, the later rows are not read
};
// Whether a row needs more than an arg-max over its logits.
inline bool NeedsHost(const SampleSpec& spec) {
  return spec.randomness.temperature > 0 || spec.top > 0;
}

struct TokenProbability {
  int32_t id = -1;
  double log_probability = 0;  // natural, before penalty, mask and temperature
};

struct SampledToken {
  int32_t id = -1;             // -1: `allowed` holds no id of the vocabulary
  bool finite = true;          // false: a logit is NaN or infinite; the other fields are undefined
  double log_probability = 0;  // natural, of `id`, before penalty and mask
  // Natural log of the probability mass of each set, before penalty and mask; -inf when it is zero.
  std::vector<double> log_mass;
  // The `top` most probable ids of the whole vocabulary, largest first, lowest id first among
  // equals.
  std::vector<TokenProbability> top;
};

// Draws one of the ids allowed by `allowed` (empty: all) as Randomness says; temperature > 0,
// `scores` finite. -1 when no id is allowed.
int32_t Draw(absl::Span<const float> scores, IdSet allowed, const Randomness& randomness);

// The `count` largest of `logits` with their log probabilities, in SampledToken::top's order.
// `logits` finite.
std::vector<TokenProbability> TopTokens(absl::Span<const float> logits, int count);

// The rule itself, on the host: penalty, then mask, then the largest (lowest id among equals) or a
// drawn one.
SampledToken SampleToken(absl::Span<const float> logits, const SampleSpec& spec);

}  // namespace chord::engine
