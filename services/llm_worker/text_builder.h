// The text of one answer as it is decoded: UTF-8, token ends, and its end under truncation.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "common/base/list_choice.h"
#include "common/model/tokenizer.h"
#include "services/llm_worker/decode_job.h"
#include "services/llm_worker/grammar/box_grammar.h"

namespace chord::llm_worker {

// Not thread-safe.
class TextBuilder {
 public:
  // `tokenizer` is not owned and must outlive the builder.
  TextBuilder(const model::Tokenizer* tokenizer, absl::Span<const int32_t> eos_token_ids,
              int max_new_tokens)
      : tokenizer_(tokenizer),
        eos_(eos_token_ids.begin(), eos_token_ids.end()),
        max_new_tokens_(max_new_tokens),
        stream_(tokenizer) {}

  bool IsEos(int32_t id) const;
  // Call nothing but Finish once ended() is true.
  void Append(int32_t id, double log_probability, bool jump_forward);
  void AddListChoice(const ListChoice& choice) { out_.choices.push_back(choice); }

  // An end token came, or the limit is reached.
  bool ended() const { return ended_; }
  int tokens() const { return static_cast<int>(out_.ids.size()); }
  const std::vector<int32_t>& ids() const { return out_.ids; }
  // Text that was appended since the last call.
  std::string TakeDelta() { return std::exchange(delta_, {}); }

  // The answer's part of the result. `cursor`: of the grammar, null in free text.
  // `log_probability_empty`: of the first list, where no list choice tells.
  DecodeResult Finish(const grammar::BoxCursor* cursor,
                      std::optional<double> log_probability_empty);

 private:
  void AppendTail();
  void CloseTruncated(const grammar::BoxCursor& cursor);

  const model::Tokenizer* const tokenizer_;
  const std::vector<int32_t> eos_;
  const int max_new_tokens_;
  model::StreamDecoder stream_;
  bool ended_ = false;
  bool limit_reached_ = false;
  DecodeResult out_;
  std::string delta_;
};

}  // namespace chord::llm_worker
