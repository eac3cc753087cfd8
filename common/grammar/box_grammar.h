// The grammar of the model's box answers, as masks over its vocabulary and as words that need no
// step. Pure: no device, no clock. Compiled once per model; one cursor per answer.
//
//   answer := [ fence ] list [ fence ]          list := "[" [ object { "," object } ] "]"
//   object := { "bbox_2d": [x1, y1, x2, y2], "label": "..." }
//
// with 0 <= x1 < x2 <= width, 0 <= y1 < y2 <= height of the resized picture. Blanks are as the model
// writes them. An answer that does not begin this way is free text, which the cursor leaves alone.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/model/tokenizer.h"

namespace chord::grammar {

// Immutable, thread-safe.
class BoxGrammar {
 public:
  static absl::StatusOr<std::shared_ptr<const BoxGrammar>> Compile(
      const model::Tokenizer& tokenizer, int vocab_size, absl::Span<const int32_t> eos_token_ids);
  ~BoxGrammar();

 private:
  friend class BoxCursor;
  struct Impl;
  explicit BoxGrammar(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

struct Question {
  int width = 0, height = 0;  // resized px: the bounds of every box
  std::string text;           // the user's words: labels are guessed from them
};

// A value: copy it to look ahead. Not thread-safe.
class BoxCursor {
 public:
  // `grammar` must outlive the cursor and its copies.
  BoxCursor(const BoxGrammar* grammar, const Question& question);
  BoxCursor(const BoxCursor&);
  BoxCursor& operator=(const BoxCursor&);
  BoxCursor(BoxCursor&&) noexcept;
  BoxCursor& operator=(BoxCursor&&) noexcept;
  ~BoxCursor();

  // Ids allowed next: bit i % 64 of word i / 64. Empty: every id (free text). Valid until the
  // cursor moves or goes.
  absl::Span<const uint64_t> Allowed();
  // Moves on by an id that was allowed, whether chosen, forced or guessed.
  void Accept(int32_t id);
  // What must come next and has only one tokenisation that the model would use: to be appended
  // (and accepted) without asking it. Empty where there is a choice.
  std::vector<int32_t> Forced() const;
  // What will probably come next: to be run in the same pass as the ids before it and checked
  // against the model's own choices. May be empty.
  std::vector<int32_t> Guess() const;

  // Where the list may end or go on here.
  struct Choice {
    double log_close = 0, log_more = 0;  // natural, from `logits` as they are
  };
  std::optional<Choice> ListChoice(absl::Span<const float> logits) const;

  bool inside() const;    // the answer has begun the form, so that masks apply
  bool complete() const;  // the form is closed: only blanks, a fence's end and the end token follow
  // An answer that is cut here: keep so many of the bytes accepted so far (up to and with the last
  // whole box), then append this text. Only when inside() and not complete().
  struct Cut {
    size_t keep_bytes = 0;
    std::string close;
  };
  Cut CloseHere() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace chord::grammar
