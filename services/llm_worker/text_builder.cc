#include "services/llm_worker/text_builder.h"

#include <algorithm>
#include <cmath>
#include <utility>

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
  out_.ids.push_back(id);
  if (IsEos(id)) {
    ended_ = true;
    return;
  }
  const std::string text = stream_.Push(id);
  out_.text += text;
  delta_ += text;
  const bool has_text = !tokenizer_->IsSpecial(id) || tokenizer_->IsAnswerMarker(id);
  if (has_text && !tokenizer_->TokenBytes(id).empty()) {
    out_.token_ends.push_back(static_cast<int32_t>(out_.text.size()));
    out_.log_probabilities.push_back(log_probability);
    out_.jump_forward.push_back(jump_forward);
  }
  limit_reached_ = tokens() >= max_new_tokens_;
  ended_ = limit_reached_;
}

DecodeResult TextBuilder::Finish(const grammar::BoxCursor* cursor,
                                 std::optional<double> log_probability_empty) {
  AppendTail();
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
  if (rest.empty()) return;
  out_.text += rest;
  delta_ += rest;
  if (!out_.token_ends.empty()) {
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
  }
  while (!out_.choices.empty() && static_cast<size_t>(out_.choices.back().offset) > keep) {
    out_.choices.pop_back();
  }
  out_.text += closing->text;
}

}  // namespace chord::llm_worker
