#include "services/llm_worker/first_list.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"

namespace chord::llm_worker {

ListFate ClassifyToken(absl::string_view bytes, bool open) {
  if (!open) {
    const size_t at = bytes.find('[');
    if (at == absl::string_view::npos) return ListFate::kUndecided;
    bytes.remove_prefix(at + 1);
  }
  const absl::string_view rest = absl::StripLeadingAsciiWhitespace(bytes);
  if (rest.empty()) return open ? ListFate::kUndecided : ListFate::kOpened;
  return rest[0] == ']' ? ListFate::kEmpty : ListFate::kFilled;
}

ListFates::ListFates(const model::Tokenizer& tokenizer, int vocab_size)
    : before_(vocab_size, ListFate::kUndecided), after_(vocab_size, ListFate::kUndecided) {
  for (int32_t id = 0; id < std::min(vocab_size, tokenizer.size()); ++id) {
    if (tokenizer.IsSpecial(id)) continue;
    before_[id] = ClassifyToken(tokenizer.TokenBytes(id), false);
    after_[id] = ClassifyToken(tokenizer.TokenBytes(id), true);
  }
}

void FirstList::Observe(absl::Span<const float> logits, int32_t chosen) {
  if (decided_ || steps_ >= kMaxSteps) return;
  ++steps_;
  const absl::Span<const ListFate> fates = fates_->of(open_);
  const float top = *std::max_element(logits.begin(), logits.end());
  double all = 0, empty = 0, filled = 0;
  for (size_t id = 0; id < logits.size(); ++id) {
    const double weight = std::exp(static_cast<double>(logits[id]) - top);
    all += weight;
    if (fates[id] == ListFate::kEmpty) empty += weight;
    if (fates[id] == ListFate::kFilled) filled += weight;
  }
  const double path = std::exp(log_path_);
  empty_ += path * empty / all;
  filled_ += path * filled / all;
  log_path_ += static_cast<double>(logits[chosen]) - top - std::log(all);
  if (fates[chosen] == ListFate::kOpened) open_ = true;
  if (fates[chosen] == ListFate::kEmpty || fates[chosen] == ListFate::kFilled) decided_ = true;
}

std::optional<double> FirstList::log_probability_empty() const {
  if (!decided_ || empty_ + filled_ <= 0) return std::nullopt;
  return std::log(std::max(empty_ / (empty_ + filled_), 1e-300));  // finite on the wire
}

}  // namespace chord::llm_worker
