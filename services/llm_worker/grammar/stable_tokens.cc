#include "services/llm_worker/grammar/stable_tokens.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/text/ascii.h"

namespace chord::grammar {
namespace {

constexpr size_t kMaxCached = 8192;
constexpr size_t kMaxCachedKeyBytes = 256;

// The text and everything of the state that decides what may follow it.
std::string CacheKey(absl::string_view text, const BoxState& end, bool no_blank_next) {
  return absl::StrCat(
      text, "\n", static_cast<int>(end.phase), ",", end.at, ",", static_cast<int>(end.key), ",",
      static_cast<int>(end.shape), ",", end.coordinate, ",", end.digits, ",",
      (end.fence ? 1 : 0) + (end.bare ? 2 : 0) + (end.has_box ? 4 : 0) + (end.has_label ? 8 : 0) +
          (no_blank_next ? 16 : 0) + (end.label_full ? 32 : 0));
}

}  // namespace

std::vector<int32_t> StableTokens::Encode(absl::string_view text, const BoxState& end,
                                          bool no_blank_next) const {
  const std::string key = CacheKey(text, end, no_blank_next);
  {
    const absl::MutexLock lock(&mu_);
    if (const auto found = cache_.find(key); found != cache_.end()) return found->second;
  }
  std::vector<int32_t> stable = Compute(text, end, no_blank_next);
  const absl::MutexLock lock(&mu_);
  if (cache_.size() < kMaxCached && key.size() <= kMaxCachedKeyBytes) cache_.emplace(key, stable);
  return stable;
}

// A token that reaches over the end of the text is a suffix of it and a beginning of what follows.
// So it is enough to try, as what follows, each single byte that may (for the split into pieces,
// which looks one character ahead) and the rest of each such token that the vocabulary has: within
// a piece, what comes after that token cannot make it, only unmake it.
std::vector<int32_t> StableTokens::Compute(absl::string_view text, const BoxState& end,
                                           bool no_blank_next) const {
  const model::Tokenizer& tokenizer = vocabulary_->tokenizer();
  const VocabularyTrie& trie = vocabulary_->trie();
  BoxState loose = end;
  loose.loose = true;
  loose.value = 0;
  std::vector<int32_t> stable = tokenizer.EncodeText(text);
  std::string longer(text);
  const auto try_with = [&](absl::string_view rest) {
    if (no_blank_next && text::IsJsonBlank(rest[0])) return;
    longer.resize(text.size());
    longer.append(rest.data(), rest.size());
    const std::vector<int32_t> ids = tokenizer.EncodeText(longer);
    const auto differ = std::mismatch(stable.begin(), stable.end(), ids.begin(), ids.end());
    stable.erase(differ.first, stable.end());
  };
  for (int b = 1; b < 128; ++b) {
    BoxState next = loose;
    if (next.Step(static_cast<uint8_t>(b))) try_with(std::string(1, static_cast<char>(b)));
  }
  if (end.phase == Phase::kLabel) {
    for (const absl::string_view rest :
         {"\u00E9", "\u0301", "\u00BD", "\u3000", "\u201C", "\u7EA2", "\U0001F34E"}) {
      try_with(rest);
    }
  }
  for (size_t begin = 0; begin < text.size() && !stable.empty(); ++begin) {
    const absl::string_view suffix = text.substr(begin);
    const int32_t node = trie.Find(suffix);
    if (node == VocabularyTrie::kNone) continue;
    trie.Walk(
        loose,
        [&](int32_t here, const BoxState&) {
          for (const int32_t id : trie.Tokens(here)) {
            try_with(vocabulary_->Bytes(id).substr(suffix.size()));
          }
          return !stable.empty();
        },
        node);
  }
  return stable;
}

}  // namespace chord::grammar
