// The grammar of the model's box answers: which tokens may come next, which must (jump-forward
// tokens) and which probably will (draft tokens). Pure: no device, no clock. Compiled once per
// model; one cursor per answer.
//
//   answer := [ fence ] list [ fence ]          list := "[" [ object { "," object } ] "]"
//   object := { "bbox_2d": [x1, y1, x2, y2], "label": "..." }
//
// with 0 <= x1 < x2 <= width, 0 <= y1 < y2 <= height of the resized image, in whole numbers.
// White space is as the model writes it. Also accepted: a single object without a list, objects
// without a label or with the label first; all objects of an answer have the same keys in the same
// order. The exact language is in box_automaton.h. An answer that does not begin this way is free
// text, which the cursor leaves alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/model/tokenizer.h"
#include "services/llm_worker/grammar/token_sets.h"

namespace chord::grammar {

// Immutable apart from bounded caches; thread-safe.
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
  explicit BoxGrammar(std::unique_ptr<const Impl> impl);
  const std::unique_ptr<const Impl> impl_;
};

struct BoxRequest {
  int width = 0, height = 0;  // resized px: the bounds of every box
  std::string text;           // the user's prompt: labels are drafted from it
};

// A value: copy it to look ahead. Not thread-safe. A decode loop, one step:
//
//   id = the model's choice among Sets()->allowed; DecisionOffset(id) before it is accepted
//   Accept(id), then Accept each id of JumpForward(), then ask for Draft()
//   the step runs id, the jump-forward and the draft ids; each draft id is compared with the
//   model's choice at its row (a copy of the cursor that has accepted the ids before it tells the
//   sets) and accepted until one differs
//
// Where may_end() is true the loop may stop without asking for the end token.
class BoxCursor {
 public:
  // `grammar` must outlive the cursor and its copies.
  BoxCursor(const BoxGrammar* grammar, const BoxRequest& request);
  BoxCursor(const BoxCursor&);
  BoxCursor& operator=(const BoxCursor&);
  BoxCursor(BoxCursor&&) noexcept;
  BoxCursor& operator=(BoxCursor&&) noexcept;
  ~BoxCursor();

  // What may come next, and which of it decides whether the list ends here. After "[" a "]" closes
  // and an object or a blank goes on; after an object's "}" a "]" or a blank closes and a "," goes
  // on. A token decides when its bytes reach beyond the point of decision.
  std::shared_ptr<const TokenSets> Sets() const;
  // Bytes of the answer up to the decision that `id` takes, which may lie inside the id: of `"}]`,
  // behind the brace. nullopt when it takes none, or may not come.
  std::optional<size_t> DecisionOffset(int32_t id) const;
  // Moves on by an id that was allowed, whether chosen, jumped to or drafted. An id that is not
  // allowed leaves the form: the rest is free text.
  void Accept(int32_t id);
  // Jump-forward tokens: what must come next and has only one tokenisation that the model would
  // use. To be appended (and accepted) without asking the model. Empty where there is a choice. Of
  // blanks, those that this answer has already written in the same gap count as the only choice;
  // nothing else is assumed. Never digits and never end tokens, whose probabilities are wanted.
  std::vector<int32_t> JumpForward() const;
  // Draft tokens: what will probably come next, to be run in the same step as the ids before and
  // verified against the model's own choices. May be empty; at most kMaxDraftTokens ids, each
  // allowed after the ones before it. Ask after JumpForward() is accepted.
  std::vector<int32_t> Draft() const;
  static constexpr size_t kMaxDraftTokens = 32;

  bool inside() const;    // the answer has begun the form, so that masks apply
  bool complete() const;  // the form is closed: only blanks, a fence's end and the end token follow
  // complete(), and the fence is closed if one was opened: the answer is whole as it is.
  bool may_end() const;

  // How to end an answer that is cut off here: keep this many bytes, then append this text. Kept is
  // everything up to the last box with four numbers and its label as far as it was written; the
  // open string, object, list and fence are closed in the answer's own style.
  struct Closing {
    size_t keep_bytes = 0;
    std::string text;
  };
  // nullopt when there is nothing to close: the answer has not begun the form or is whole, or it
  // has no box yet. An empty list is never closed in the model's name.
  std::optional<Closing> CloseTruncated() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace chord::grammar
