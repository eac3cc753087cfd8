#include "services/llm_worker/grammar/answer_tail.h"

#include <algorithm>

#include "absl/types/span.h"
#include "common/model/pretokenize.h"
#include "common/text/ascii.h"
#include "common/text/utf8.h"

namespace chord::grammar {

void AnswerTail::Append(int32_t id, absl::string_view bytes) {
  if (text::IsDigit(bytes.back())) {
    Clear();
  } else if (!overflown_) {
    text_.append(bytes.data(), bytes.size());
    ids_.push_back(id);
    overflown_ = text_.size() > kMaxBytes;
  }
}

void AnswerTail::Clear() {
  text_.clear();
  ids_.clear();
  overflown_ = false;
}

std::vector<int32_t> AnswerTail::Continue(const Vocabulary& vocabulary, const StableTokens& stable,
                                          absl::string_view more,
                                          const std::optional<End>& end) const {
  if (overflown_) return {};
  const model::Tokenizer& tokenizer = vocabulary.tokenizer();
  const std::string text = text_ + std::string(more);
  // The piece in which `more` begins. Where pieces begin does not depend on what comes after them.
  size_t begin = 0;
  for (const absl::string_view piece :
       model::SplitIntoPieces(text::IsUtf8(text) ? absl::string_view(text) : absl::string_view())) {
    const auto at = static_cast<size_t>(piece.data() - text.data());
    if (at > text_.size()) break;
    begin = at;
  }
  size_t skipped = 0, first = 0;
  while (first < ids_.size() && skipped < begin) {
    skipped += tokenizer.TokenBytes(ids_[first++]).size();
  }
  if (skipped == begin) {
    const auto before = absl::MakeConstSpan(ids_).subspan(first);
    const absl::string_view piece = absl::string_view(text).substr(begin);
    std::vector<int32_t> ids =
        end ? stable.Encode(piece, end->state, end->no_blank_next) : tokenizer.EncodeText(piece);
    if (ids.size() >= before.size() && std::equal(before.begin(), before.end(), ids.begin())) {
      ids.erase(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(before.size()));
      return ids;
    }
  }
  return end ? std::vector<int32_t>() : tokenizer.EncodeText(more);
}

}  // namespace chord::grammar
