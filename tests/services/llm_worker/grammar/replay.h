// A model that says one given answer, decoded with the grammar: what a decode loop would do.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/list_choice.h"
#include "common/model/tokenizer.h"
#include "services/llm_worker/grammar/box_grammar.h"

namespace chord::grammar {

struct Replay {
  int tokens = 0;      // of the answer, with its end token: the passes without grammar
  int passes = 0;      // with it, the first one (over the prompt) included
  int end_passes = 0;  // of these, those that chose nothing but the end of a whole answer
  // Ids: jumped to, drafted and right, drafted and wrong.
  int jumped = 0, drafted = 0, wrong = 0;
  std::string error;  // "" when every jump-forward id was the answer's own
};

// The list choice as a decode loop reads it off one row of logits when `chosen` is taken.
inline std::optional<ListChoice> ListChoiceOf(const BoxCursor& cursor,
                                              const std::vector<float>& logits, int32_t chosen) {
  const auto offset = cursor.DecisionOffset(chosen);
  if (!offset) return std::nullopt;
  const auto sets = cursor.Sets();
  EXPECT_TRUE(Contains(sets->close, chosen) != Contains(sets->more, chosen));
  const double top = *std::max_element(logits.begin(), logits.end());
  double all = 0, close = 0, more = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double mass = std::exp(logits[i] - top);
    all += mass;
    if (Contains(sets->close, static_cast<int32_t>(i))) close += mass;
    if (Contains(sets->more, static_cast<int32_t>(i))) more += mass;
  }
  return ListChoice{static_cast<int64_t>(*offset), std::log(close / all), std::log(more / all)};
}

// The same for the most probable id that may come next.
inline std::optional<ListChoice> ListChoiceOf(const BoxCursor& cursor,
                                              const std::vector<float>& logits) {
  const auto sets = cursor.Sets();
  int32_t best = -1;
  for (int32_t id = 0; id < static_cast<int32_t>(logits.size()); ++id) {
    if (!sets->allowed.empty() && !Contains(sets->allowed, id)) continue;
    if (best < 0 || logits[static_cast<size_t>(id)] > logits[static_cast<size_t>(best)]) best = id;
  }
  return best < 0 ? std::nullopt : ListChoiceOf(cursor, logits, best);
}

inline Replay RunReplay(const BoxGrammar& grammar, const model::Tokenizer& tokenizer,
                        const BoxRequest& prompt, const std::string& answer, int32_t eos) {
  std::vector<int32_t> ids = tokenizer.EncodeText(answer);
  ids.push_back(eos);
  Replay out;
  out.tokens = static_cast<int>(ids.size());
  BoxCursor cursor(&grammar, prompt);
  const auto fail = [&](size_t at, const char* what) {
    out.error = absl::StrCat(what, " at token ", at, " of ", answer);
    return out;
  };
  size_t at = 0;
  const auto take = [&] {
    const auto sets = cursor.Sets();
    if (!sets->allowed.empty() && !Contains(sets->allowed, ids[at])) return false;
    cursor.Accept(ids[at++]);
    return true;
  };
  while (at < ids.size()) {
    ++out.passes;  // the model chooses the id at `at`
    if (ids[at] == eos && cursor.may_end()) ++out.end_passes;
    if (!take()) return fail(at, "not allowed");
    if (at == ids.size()) break;
    for (const int32_t id : cursor.JumpForward()) {
      if (id != ids[at]) return fail(at, "jumped to another");
      if (!take()) return fail(at, "jumped to what is not allowed");
      ++out.jumped;
    }
    const std::vector<int32_t> draft = cursor.Draft();
    size_t right = 0;
    while (right < draft.size() && at + 1 < ids.size() && draft[right] == ids[at]) {
      if (!take()) return fail(at, "drafted what is not allowed");
      ++right;
    }
    out.drafted += static_cast<int>(right);
    out.wrong += static_cast<int>(draft.size() - right);
  }
  return out;
}

}  // namespace chord::grammar
