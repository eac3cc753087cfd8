// The text of one answer as it is decoded: UTF-8, token ends, and its end under truncation.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/list_choice.h"
#include "common/engine/sampler.h"
#include "common/model/tokenizer.h"
#include "services/llm_worker/decode_job.h"
#include "services/llm_worker/grammar/box_grammar.h"

namespace chord::llm_worker {

// Not thread-safe.
class TextBuilder {
 public:
  struct Options {
    int max_new_tokens = 0;
    std::vector<std::string> stop;  // the answer ends before the first of these
    bool alternatives = false;      // DecodeResult::top is filled
  };
  // `tokenizer` is not owned and must outlive the builder.
  TextBuilder(const model::Tokenizer* tokenizer, absl::Span<const int32_t> eos_token_ids,
              Options options)
      : tokenizer_(tokenizer),
        eos_(eos_token_ids.begin(), eos_token_ids.end()),
        options_(std::move(options)),
        stream_(tokenizer) {}

  bool IsEos(int32_t id) const;
  // The most probable tokens at the place of the token that is appended next.
  void SetAlternatives(absl::Span<const engine::TokenProbability> top);
  // Call nothing but Finish once ended() is true.
  void Append(int32_t id, double log_probability, bool jump_forward);
  void AddListChoice(const ListChoice& choice) { out_.choices.push_back(choice); }

  // An end token or a stop sequence came, or the limit is reached.
  bool ended() const { return ended_; }
  int tokens() const { return static_cast<int>(out_.ids.size()); }
  const std::vector<int32_t>& ids() const { return out_.ids; }
  // Text that became the answer's since the last call; what may begin a stop sequence is held back.
  std::string TakeDelta() { return std::exchange(delta_, {}); }

  // The answer's part of the result. `cursor`: of the grammar, null in free text.
  // `log_probability_empty`: of the first list, where no list choice tells.
  DecodeResult Finish(const grammar::BoxCursor* cursor,
                      std::optional<double> log_probability_empty);

 private:
  void AppendText(absl::string_view text);
  void AppendTail();
  void CutAtStop();
  void CloseTruncated(const grammar::BoxCursor& cursor);

  const model::Tokenizer* const tokenizer_;
  const std::vector<int32_t> eos_;
  const Options options_;
  model::StreamDecoder stream_;
  bool ended_ = false;
  bool limit_reached_ = false;
  bool stopped_ = false;  // by a stop sequence
  size_t released_ = 0;   // bytes of the text that went to delta_
  std::vector<TokenAlternative> alternatives_;
  DecodeResult out_;
  std::string delta_;
};

}  // namespace chord::llm_worker
