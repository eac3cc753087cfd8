#include "services/llm_worker/first_list.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"

namespace chord::llm_worker {

ListEffect ClassifyToken(absl::string_view bytes, bool open) {
  if (!open) {
    const size_t at = bytes.find('[');
    if (at == absl::string_view::npos) return ListEffect::kNone;
    bytes.remove_prefix(at + 1);
  }
  const absl::string_view rest = absl::StripLeadingAsciiWhitespace(bytes);
  if (rest.empty()) return open ? ListEffect::kNone : ListEffect::kOpens;
  return rest[0] == ']' ? ListEffect::kEmpties : ListEffect::kFills;
}

ListEffects::ListEffects(const model::Tokenizer& tokenizer, int vocab_size) {
  for (const bool open : {false, true}) {
    State& state = by_state_[open ? 1 : 0];
    state.effects.assign(vocab_size, ListEffect::kNone);
    state.empties.assign((vocab_size + 63) / 64, 0);
    state.fills.assign((vocab_size + 63) / 64, 0);
    for (int32_t id = 0; id < std::min(vocab_size, tokenizer.size()); ++id) {
      if (tokenizer.IsSpecial(id)) continue;
      const ListEffect effect = ClassifyToken(tokenizer.TokenBytes(id), open);
      state.effects[id] = effect;
      const uint64_t bit = uint64_t{1} << (id % 64);
      if (effect == ListEffect::kEmpties) state.empties[id / 64] |= bit;
      if (effect == ListEffect::kFills) state.fills[id / 64] |= bit;
    }
  }
}

void FirstList::Observe(int32_t chosen, double log_probability, double log_empties,
                        double log_fills) {
  if (!undecided()) return;
  const double path = std::exp(log_path_);
  empty_ += path * std::exp(log_empties);
  filled_ += path * std::exp(log_fills);
  log_path_ += log_probability;
  Advance(chosen);
}

void FirstList::Advance(int32_t chosen) {
  if (!undecided()) return;
  ++steps_;
  const ListEffect effect = effects_->of(open_, chosen);
  if (effect == ListEffect::kOpens) open_ = true;
  if (effect == ListEffect::kEmpties || effect == ListEffect::kFills) decided_ = true;
}

std::optional<double> FirstList::log_probability_empty() const {
  if (!decided_ || empty_ + filled_ <= 0) return std::nullopt;
  return std::log(std::max(empty_ / (empty_ + filled_), 1e-300));  // finite on the wire
}

}  // namespace chord::llm_worker
