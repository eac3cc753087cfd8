// The grammar of the model's box answers, as masks over its vocabulary and as words that need no
// step. Pure: no device, no clock. Compiled once per model; one cursor per answer.
//
//   answer := [ fence ] list [ fence ]          list := "[" [ object { "," object } ] "]"
//   object := { "bbox_2d": [x1, y1, x2, y2], "label": "..." }
//
// with 0 <= x1 < x2 <= width, 0 <= y1 < y2 <= height of the resized image, in whole numbers.
// Blanks are as the model writes them. Also taken: a single object without a list, objects without
// a label or with the label first; all objects of an answer have the same keys in the same order.
// The exact language is in box_automaton.h. An answer that does not begin this way is free text,
// which the cursor leaves alone.
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

// Immutable apart from a bounded memory of its own; thread-safe.
class BoxGrammar {
 public:
  // `tokenizer` must outlive the grammar and its cursors. `vocab_size`: columns of the model's
  // logits. CHECKPOINT_INVALID when the two do not belong together, when there is no end token, or
  // when a byte that the form is written with has no token of its own.
  static absl::StatusOr<std::shared_ptr<const BoxGrammar>> Compile(
      const model::Tokenizer& tokenizer, int vocab_size, absl::Span<const int32_t> eos_token_ids);
  ~BoxGrammar();

 private:
  friend class BoxCursor;
  struct Impl;
  explicit BoxGrammar(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

struct BoxRequest {
  int width = 0, height = 0;  // resized px: the bounds of every box
  std::string text;           // the user's words: labels are guessed from them
};

// A value: copy it to look ahead. Not thread-safe. A decode loop, one pass:
//
//   id = the model's choice under Allowed(); ListChoice(logits, id) before it is accepted
//   Accept(id); every id of Forced() is accepted too; then Guess() is asked
//   the pass runs id, the forced and the guessed ids; each guessed one is compared with the model's
//   choice under Allowed() at its place (ListChoice as above) and accepted until one differs
//
// Where may_end() is true the loop may stop without asking for the end token.
class BoxCursor {
 public:
  // `grammar` must outlive the cursor and its copies.
  BoxCursor(const BoxGrammar* grammar, const BoxRequest& prompt);
  BoxCursor(const BoxCursor&);
  BoxCursor& operator=(const BoxCursor&);
  BoxCursor(BoxCursor&&) noexcept;
  BoxCursor& operator=(BoxCursor&&) noexcept;
  ~BoxCursor();

  // Ids allowed next: bit i % 64 of word i / 64. Empty: every id (free text). Valid until the
  // cursor moves or goes. Never without a bit; bits beyond the vocabulary are 0.
  absl::Span<const uint64_t> Allowed();
  // Moves on by an id that was allowed, whether chosen, forced or guessed. An id that is not
  // allowed leaves the form: the rest is free text.
  void Accept(int32_t id);
  // What must come next and has only one tokenisation that the model would use: to be appended
  // (and accepted) without asking it. Empty where there is a choice. Of blanks, that which this
  // answer has already written at the same place is taken for the only choice; nothing else is
  // taken for granted. Never digits and never end tokens, whose probabilities are wanted.
  std::vector<int32_t> Forced() const;
  // What will probably come next: to be run in the same pass as the ids before it and checked
  // against the model's own choices. May be empty; at most kMaxGuess ids, each allowed after the
  // ones before it. Ask after Forced() is accepted.
  std::vector<int32_t> Guess() const;
  static constexpr size_t kMaxGuess = 32;

  // Where the list may end or go on here. A token decides when its bytes reach beyond the point of
  // decision: after "[" a "]" closes and an object or a blank goes on; after an object's "}" a "]"
  // or a blank closes and a "," goes on. Tokens that do neither count nowhere.
  struct Choice {
    double log_close = 0, log_more = 0;  // natural, from `logits` as they are; -inf when no token
    // Bytes of the answer up to that point, which may lie inside the token that decides: of
    // `"}]`, behind the brace.
    size_t offset = 0;
  };
  // nullopt where the most probable allowed id does not decide. (Inside a label any quote could, so
  // one decision may show more than once when the answer is sampled; the last one counts.)
  std::optional<Choice> ListChoice(absl::Span<const float> logits) const;
  // The same when `chosen` is what Accept will be given: exactly once a decision.
  std::optional<Choice> ListChoice(absl::Span<const float> logits, int32_t chosen) const;

  bool inside() const;    // the answer has begun the form, so that masks apply
  bool complete() const;  // the form is closed: only blanks, a fence's end and the end token follow
  // complete(), and the fence is closed if one was opened: the answer is whole as it is.
  bool may_end() const;
  // An answer that is cut here: keep so many of the bytes accepted so far (up to and with the last
  // whole box, or with the list's end), then append this text. Only when inside() and not
  // may_end().
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
