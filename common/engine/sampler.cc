#include "common/engine/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "common/engine/philox.h"

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

namespace {

// Calls visit(id) for each id of `allowed` inside the vocabulary, ascending; empty: all.
template <typename Visit>
void ForEachAllowed(size_t vocab, IdSet allowed, Visit visit) {
  if (allowed.empty()) {
    for (size_t i = 0; i < vocab; ++i) visit(static_cast<int32_t>(i));
    return;
  }
  const size_t words = std::min(allowed.size(), (vocab + 63) / 64);
  for (size_t word = 0; word < words; ++word) {
    for (uint64_t bits = allowed[word]; bits != 0; bits &= bits - 1) {
      const size_t i = word * 64 + std::countr_zero(bits);
      if (i < vocab) visit(static_cast<int32_t>(i));
    }
  }
}

struct Candidate {
  int32_t id;
  double weight;  // probability times a constant
};

// Keeps the most probable candidates that together have `top_p` of the mass.
void KeepNucleus(std::vector<Candidate>& candidates, double top_p) {
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  });
  double wanted = 0;
  for (const Candidate& c : candidates) wanted += c.weight;
  wanted *= top_p;
  size_t kept = 0;
  for (double mass = 0; kept < candidates.size() && (kept == 0 || mass < wanted); ++kept) {
    mass += candidates[kept].weight;
  }
  candidates.resize(kept);
}

}  // namespace

int32_t Draw(absl::Span<const float> scores, IdSet allowed, const Randomness& randomness) {
  double top = -std::numeric_limits<double>::infinity();
  ForEachAllowed(scores.size(), allowed,
                 [&](int32_t id) { top = std::max(top, double{scores[id]}); });
  std::vector<Candidate> candidates;
  double total = 0;
  ForEachAllowed(scores.size(), allowed, [&](int32_t id) {
    const double weight = std::exp((double{scores[id]} - top) / randomness.temperature);
    if (weight > 0) candidates.push_back({id, weight});
  });
  if (candidates.empty()) return -1;
  if (randomness.top_p < 1) KeepNucleus(candidates, randomness.top_p);
  for (const Candidate& c : candidates) total += c.weight;
  double left = UniformAt(randomness.seed, randomness.index) * total;
  for (const Candidate& c : candidates) {
    left -= c.weight;
    if (left < 0) return c.id;
  }
  return candidates.back().id;  // rounding
}

std::vector<TokenProbability> TopTokens(absl::Span<const float> logits, int count) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto end = ids.begin() + std::min<std::ptrdiff_t>(std::clamp(count, 0, kMaxTop),
                                                          static_cast<std::ptrdiff_t>(ids.size()));
  std::partial_sort(ids.begin(), end, ids.end(), [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  std::vector<TokenProbability> out;
  if (end == ids.begin()) return out;
  const double top = logits[ids.front()];
  double all = 0;
  for (float logit : logits) all += std::exp(double{logit} - top);
  for (auto it = ids.begin(); it != end; ++it) {
    out.push_back({*it, double{logits[*it]} - top - std::log(all)});
  }
  return out;
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
  if (spec.randomness.temperature > 0) {
    out.id = Draw(scores, spec.allowed, spec.randomness);
  } else {
    out.id = spec.allowed.empty() ? Argmax(scores) : ArgmaxAllowed(scores, spec.allowed);
  }
  if (out.id < 0) return out;
  if (spec.top > 0) out.top = TopTokens(logits, spec.top);
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
