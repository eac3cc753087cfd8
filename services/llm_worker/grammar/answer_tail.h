// The end of an answer as text and as the ids it was written with: what new text is tokenised
// after.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "services/llm_worker/grammar/stable_tokens.h"
#include "services/llm_worker/grammar/vocabulary.h"

namespace chord::grammar {

// A value. The tail begins after the last token that ended in a digit, where a piece of the
// pre-tokenizer ends for certain.
class AnswerTail {
 public:
  void Append(int32_t id, absl::string_view bytes);
  void Clear();

  // What the state after the new text must tell for its ids to be certain.
  struct End {
    BoxState state;
    bool no_blank_next = false;
  };
  // The ids by which the model would write `more` here. With `end`: only the ids that stay the same
  // whatever follows, and none where the tail is not tokenised as the tokenizer does it. Without:
  // the most likely ids.
  std::vector<int32_t> Continue(const Vocabulary& vocabulary, const StableTokens& stable,
                                absl::string_view more, const std::optional<End>& end) const;

 private:
  static constexpr size_t kMaxBytes = 1024;

  std::string text_;
  std::vector<int32_t> ids_;
  bool overflown_ = false;  // grew over kMaxBytes; nothing is predicted until the next digit
};

}  // namespace chord::grammar
