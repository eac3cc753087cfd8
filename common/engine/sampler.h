// Choosing the next token from one row of logits. Pure, no device (spec §7.2).
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

}  // namespace chord::engine
