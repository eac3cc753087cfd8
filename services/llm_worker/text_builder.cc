#include "services/llm_worker/text_builder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "services/llm_worker/stop_scan.h"

namespace chord::llm_worker {
namespace {

// log(e^close / (e^close + e^more))
double LogShareOfClose(const ListChoice& choice) {
  const double high = std::max(choice.log_close, choice.log_more);
  return choice.log_close - high -
         std::log(std::exp(choice.log_close - high) + std::exp(choice.log_more - high));
}

}  // namespace

bool TextBuilder::IsEos(int32_t id) const {
  return std::find(eos_.begin(), eos_.end(), id) != eos_.end();
}

void TextBuilder::Append(int32_t id, double log_probability, bool jump_forward) {
  std::vector<TokenAlternative> top = std::exchange(alternatives_, {});
  out_.ids.push_back(id);
  if (IsEos(id)) {
    ended_ = true;
    return;
  }
  AppendText(stream_.Push(id));
  const bool has_text = !tokenizer_->IsSpecial(id) || tokenizer_->IsAnswerMarker(id);
  if (has_text && !tokenizer_->TokenBytes(id).empty()) {
    out_.token_ends.push_back(static_cast<int32_t>(out_.text.size()));
    out_.log_probabilities.push_back(log_probability);
    out_.jump_forward.push_back(jump_forward);
    if (options_.alternatives) out_.top.push_back(std::move(top));
  }
  limit_reached_ = !stopped_ && tokens() >= options_.max_new_tokens;
  ended_ = limit_reached_ || stopped_;
}

void TextBuilder::SetAlternatives(absl::Span<const engine::TokenProbability> top) {
  alternatives_.clear();
  for (const engine::TokenProbability& token : top) {
    alternatives_.push_back({std::string(tokenizer_->TokenBytes(token.id)), token.log_probability});
  }
}

void TextBuilder::AppendText(absl::string_view text) {
  out_.text.append(text.data(), text.size());
  const StopScan scan = ScanForStop(out_.text, released_, options_.stop);
  delta_ += out_.text.substr(released_, scan.release - released_);
  released_ = scan.release;
  stopped_ = scan.stopped;
}

// The answer ends where the stop sequence begins. A token that reaches beyond keeps what it wrote
// before.
void TextBuilder::CutAtStop() {
  out_.text.resize(released_);
  const auto end = static_cast<int32_t>(released_);
  size_t count = out_.token_ends.size();
  while (count > 0 && (count == 1 ? 0 : out_.token_ends[count - 2]) >= end) --count;
  out_.token_ends.resize(count);
  out_.log_probabilities.resize(count);
  out_.jump_forward.resize(count);
  if (options_.alternatives) out_.top.resize(count);
  if (count > 0) out_.token_ends.back() = std::min(out_.token_ends.back(), end);
  while (!out_.choices.empty() && out_.choices.back().offset > end) out_.choices.pop_back();
}

DecodeResult TextBuilder::Finish(const grammar::BoxCursor* cursor,
                                 std::optional<double> log_probability_empty) {
  if (stopped_) {
    CutAtStop();
  } else {
    AppendTail();
  }
  out_.log_probability_empty =
      out_.choices.empty() ? log_probability_empty : LogShareOfClose(out_.choices.front());
  out_.grammar = cursor != nullptr && cursor->inside();
  out_.list_closed = out_.grammar && cursor->complete();
  // A closed list lacks at most its fence and the end token.
  out_.truncated = limit_reached_ && !out_.list_closed;
  if (limit_reached_ && out_.grammar) CloseTruncated(*cursor);
  return std::move(out_);
}

// An incomplete character at the very end becomes U+FFFD and belongs to the last token.
void TextBuilder::AppendTail() {
  const std::string rest = stream_.Finish();
  out_.text += rest;
  delta_ += out_.text.substr(released_);
  released_ = out_.text.size();
  if (!rest.empty() && !out_.token_ends.empty()) {
    out_.token_ends.back() = static_cast<int32_t>(out_.text.size());
  }
}

// The client has seen the text that goes in the stream; the answer itself is well-formed when it
// has a box. Without one, the answer stays as the model left it and is no evidence of absence.
void TextBuilder::CloseTruncated(const grammar::BoxCursor& cursor) {
  const auto closing = cursor.CloseTruncated();
  if (!closing) {
    if (!out_.truncated) return;
    out_.log_probability_empty = std::nullopt;
    out_.choices.clear();
    return;
  }
  const size_t keep = std::min(closing->keep_bytes, out_.text.size());
  out_.text.resize(keep);
  while (!out_.token_ends.empty() && static_cast<size_t>(out_.token_ends.back()) > keep) {
    out_.token_ends.pop_back();
    out_.log_probabilities.pop_back();
    out_.jump_forward.pop_back();
    if (options_.alternatives) out_.top.pop_back();
  }
  while (!out_.choices.empty() && static_cast<size_t>(out_.choices.back().offset) > keep) {
    out_.choices.pop_back();
  }
  out_.text += closing->text;
}

}  // namespace chord::llm_worker
