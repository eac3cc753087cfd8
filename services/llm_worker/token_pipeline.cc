#include "services/llm_worker/token_pipeline.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"

namespace chord::llm_worker {
namespace {

// What is sent stays finite; e^-100 is as good as zero.
constexpr double kLeastLog = -100;

}  // namespace

TokenPipeline::TokenPipeline(const SamplingParams& params, const ListEffects* effects,
                             const grammar::BoxGrammar* grammar,
                             const std::optional<grammar::BoxRequest>& request,
                             absl::Span<const int32_t> prompt)
    : params_(params), first_list_(effects) {
  if (grammar != nullptr && request) cursor_.emplace(grammar, *request);
  for (const int32_t id : prompt) AddSeen(id);
}

void TokenPipeline::AddSeen(int32_t id) {
  if (params_.repetition_penalty != 1.0f && seen_.insert(id).second) seen_order_.push_back(id);
}

TokenPipeline::Row TokenPipeline::MakeRow(const grammar::BoxCursor* cursor,
                                          const FirstList& first_list) {
  Row row;
  if (cursor != nullptr) {
    row.sets = cursor->Sets();
    row.decides = row.sets->decides();
    if (row.decides) row.mass_sets = {row.sets->close, row.sets->more};
  }
  // Inside the form the list choices say the same, and more exactly.
  row.first_list = first_list.undecided() && (cursor == nullptr || !cursor->inside());
  if (row.first_list) {
    row.mass_sets.push_back(first_list.empties());
    row.mass_sets.push_back(first_list.fills());
  }
  return row;
}

void TokenPipeline::PrepareRows(absl::Span<const int32_t> draft,
                                std::vector<engine::SampleSpec>* specs) {
  rows_.clear();
  penalized_ = seen_order_;
  std::optional<grammar::BoxCursor> ahead;
  if (cursor_ && !draft.empty()) ahead = cursor_;
  FirstList first_list = first_list_;
  std::vector<int32_t> jump;  // what the grammar appends after the last row that is read
  size_t jumped = 0;
  for (size_t i = 0; i <= draft.size(); ++i) {
    const grammar::BoxCursor* cursor = ahead ? &*ahead : this->cursor();
    const bool read = i == draft.size() || jumped == jump.size() || jump[jumped] != draft[i];
    rows_.push_back(read ? MakeRow(cursor, first_list) : Row());
    rows_.back().read = read;
    rows_.back().seen = penalized_.size();
    if (i == draft.size()) break;
    const int32_t id = draft[i];
    if (read) rows_.back().expected = id;
    if (ahead) ahead->Accept(id);
    first_list.Advance(id);
    if (!read) {
      ++jumped;
    } else {
      jump = ahead ? ahead->JumpForward() : std::vector<int32_t>();
      jumped = 0;
    }
    const auto drafted = penalized_.begin() + static_cast<ptrdiff_t>(seen_order_.size());
    if (params_.repetition_penalty != 1.0f && !seen_.contains(id) &&
        std::find(drafted, penalized_.end(), id) == penalized_.end()) {
      penalized_.push_back(id);
    }
  }
  for (size_t i = 0; i < rows_.size(); ++i) {
    const Row& row = rows_[i];
    engine::SampleSpec spec;
    if (row.sets != nullptr) spec.allowed = row.sets->allowed;
    spec.penalized = absl::MakeConstSpan(penalized_).subspan(0, row.seen);
    spec.repetition_penalty = params_.repetition_penalty;
    spec.mass_sets = row.mass_sets;
    spec.randomness = params_.randomness;
    spec.randomness.index = accepted_ + i;
    spec.top = params_.top_tokens;
    spec.read = row.read;
    spec.expected = row.expected;
    specs->push_back(spec);
  }
}

absl::StatusOr<TokenPipeline::Choice> TokenPipeline::Read(size_t index,
                                                          const engine::SampledToken& sampled) {
  if (!sampled.finite) return absl::InternalError("logits are not finite");
  if (sampled.id < 0) return absl::InternalError("the grammar leaves no token");
  const Row& row = rows_[index];
  if (sampled.log_mass.size() != row.mass_sets.size()) {
    return absl::InternalError("the engine reported masses of other sets");
  }
  Choice out{sampled.id, sampled.log_probability, std::nullopt, sampled.top};
  size_t mass = 0;
  if (row.decides) {
    if (const auto offset = cursor_->DecisionOffset(sampled.id)) {
      out.list_choice =
          ListChoice{static_cast<int64_t>(*offset), std::max(sampled.log_mass[0], kLeastLog),
                     std::max(sampled.log_mass[1], kLeastLog)};
    }
    mass = 2;
  }
  if (row.first_list) {
    first_list_.Observe(sampled.id, sampled.log_probability, sampled.log_mass[mass],
                        sampled.log_mass[mass + 1]);
  }
  return out;
}

void TokenPipeline::Accept(int32_t id) {
  ++accepted_;
  AddSeen(id);
  if (cursor_) cursor_->Accept(id);
}

std::vector<int32_t> TokenPipeline::JumpForward() const {
  return cursor_ ? cursor_->JumpForward() : std::vector<int32_t>();
}

std::vector<int32_t> TokenPipeline::Draft() const {
  return cursor_ ? cursor_->Draft() : std::vector<int32_t>();
}

}  // namespace chord::llm_worker
