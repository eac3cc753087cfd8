// A model that says one given answer, decoded with the grammar: what a decode loop would do.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/model/tokenizer.h"
#include "services/llm_worker/grammar/box_grammar.h"

namespace chord::grammar {

struct Replay {
  int tokens = 0;      // of the answer, with its end token: the passes without grammar
  int passes = 0;      // with it, the first one (over the prompt) included
  int end_passes = 0;  // of these, those that chose nothing but the end of a whole answer
  int forced = 0, guessed = 0, wrong = 0;  // ids; `wrong`: guessed in vain
  std::string error;                       // "" when every forced id was the answer's own
};

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
    const auto allowed = cursor.Allowed();
    const auto id = static_cast<size_t>(ids[at]);
    if (!allowed.empty() && (allowed[id / 64] >> (id % 64) & 1) == 0) return false;
    cursor.Accept(ids[at++]);
    return true;
  };
  while (at < ids.size()) {
    ++out.passes;  // the model chooses the id at `at`
    if (ids[at] == eos && cursor.may_end()) ++out.end_passes;
    if (!take()) return fail(at, "not allowed");
    if (at == ids.size()) break;
    for (const int32_t id : cursor.Forced()) {
      if (id != ids[at]) return fail(at, "forced another");
      if (!take()) return fail(at, "forced what is not allowed");
      ++out.forced;
    }
    const std::vector<int32_t> guess = cursor.Guess();
    size_t right = 0;
    while (right < guess.size() && at + 1 < ids.size() && guess[right] == ids[at]) {
      if (!take()) return fail(at, "guessed what is not allowed");
      ++right;
    }
    out.guessed += static_cast<int>(right);
    out.wrong += static_cast<int>(guess.size() - right);
  }
  return out;
}

}  // namespace chord::grammar
