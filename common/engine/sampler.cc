#include "common/engine/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace chord::engine {

void SeenTokens::Add(int32_t id) {
  if (id < 0 || static_cast<size_t>(id) >= seen_.size() || seen_[id]) return;
  seen_[id] = true;
  order_.push_back(id);
}

void SeenTokens::Add(absl::Span<const int32_t> ids) {
  for (int32_t id : ids) Add(id);
}

void ApplyRepetitionPenalty(absl::Span<float> logits, const SeenTokens& seen, float penalty) {
  if (penalty == 1.0f) return;
  for (int32_t id : seen.ids()) {
    if (static_cast<size_t>(id) >= logits.size()) continue;
    float& z = logits[id];
    z = z < 0 ? z * penalty : z / penalty;
  }
}

int32_t Argmax(absl::Span<const float> logits) {
  int32_t best = 0;
  float top = -std::numeric_limits<float>::infinity();
  bool found = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > top || (!found && logits[i] == top)) {
      top = logits[i];
      best = static_cast<int32_t>(i);
      found = true;
    }
  }
  return best;
}

int32_t ArgmaxAllowed(absl::Span<const float> logits, absl::Span<const uint64_t> allowed) {
  int32_t best = -1;
  float top = -std::numeric_limits<float>::infinity();
  const size_t words = std::min(allowed.size(), (logits.size() + 63) / 64);
  for (size_t word = 0; word < words; ++word) {
    for (uint64_t bits = allowed[word]; bits != 0; bits &= bits - 1) {
      const size_t i = word * 64 + std::countr_zero(bits);
      if (i >= logits.size()) break;
      if (logits[i] > top || (best < 0 && logits[i] == top)) {
        top = logits[i];
        best = static_cast<int32_t>(i);
      }
    }
  }
  return best;
}

double LogProbability(absl::Span<const float> logits, int32_t id) {
  double top = -std::numeric_limits<double>::infinity();
  for (float z : logits) {
    if (z > top) top = z;
  }
  double sum = 0;
  for (float z : logits) {
    if (!std::isnan(z)) sum += std::exp(double{z} - top);
  }
  return double{logits[id]} - top - std::log(sum);
}

SampledToken SampleToken(absl::Span<const float> logits, const SampleSpec& spec) {
  SampledToken out;
  for (float logit : logits) out.finite &= std::isfinite(logit);
  if (!out.finite) return out;
  absl::Span<const float> scores = logits;
  std::vector<float> penalized;
  if (spec.repetition_penalty != 1.0f) {
    penalized.assign(logits.begin(), logits.end());
    for (int32_t id : spec.penalized) {
      if (id < 0 || static_cast<size_t>(id) >= penalized.size()) continue;
      float& z = penalized[id];
      z = z < 0 ? z * spec.repetition_penalty : z / spec.repetition_penalty;
    }
    scores = penalized;
  }
  out.id = spec.allowed.empty() ? Argmax(scores) : ArgmaxAllowed(scores, spec.allowed);
  if (out.id < 0) return out;
  const double top = *std::max_element(logits.begin(), logits.end());
  double all = 0;
  for (float logit : logits) all += std::exp(logit - top);
  out.log_probability = logits[out.id] - top - std::log(all);
  out.log_mass.reserve(spec.mass_sets.size());
  for (const IdSet& set : spec.mass_sets) {
    double mass = 0;
    const size_t words = std::min(set.size(), (logits.size() + 63) / 64);
    for (size_t word = 0; word < words; ++word) {
      for (uint64_t bits = set[word]; bits != 0; bits &= bits - 1) {
        const size_t i = word * 64 + std::countr_zero(bits);
        if (i >= logits.size()) break;
        mass += std::exp(logits[i] - top);
      }
    }
    out.log_mass.push_back(std::log(mass) - std::log(all));
  }
  return out;
}

}  // namespace chord::engine
