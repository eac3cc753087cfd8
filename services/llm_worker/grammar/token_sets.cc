#include "services/llm_worker/grammar/token_sets.h"

#include <utility>

namespace chord::grammar {
namespace {

constexpr size_t kMaxCachedWords = (32 << 20) / sizeof(uint64_t);

size_t Words(const TokenSets& sets) {
  return sets.allowed.size() + sets.close.size() + sets.more.size();
}

bool InNumber(const BoxState& s) {
  return s.phase == Phase::kNumberStart || s.phase == Phase::kNumber ||
         s.phase == Phase::kNumberGap;
}

// Everything outside a number on which the following bytes depend.
std::string CacheKey(const BoxState& s) {
  const bool label = s.phase == Phase::kLabel;
  const auto flag = [](bool value, int bit) { return static_cast<char>(value ? 1 << bit : 0); };
  std::string key;
  key.push_back(static_cast<char>(s.phase));
  key.push_back(static_cast<char>(s.at));
  key.push_back(static_cast<char>(s.blanks));
  key.push_back(static_cast<char>(s.key));
  key.push_back(static_cast<char>(s.shape));
  key.push_back(static_cast<char>(flag(s.fence, 0) | flag(s.bare, 1) | flag(s.has_box, 2) |
                                  flag(s.has_label, 3) | flag(s.blank_closes, 4) |
                                  flag(s.loose, 5) | flag(label && s.label_full, 6)));
  key.push_back(static_cast<char>(label ? s.utf8 : 0));
  key.push_back(static_cast<char>(label ? s.escape : 0));
  for (const int32_t side : s.side) {
    key.append(reinterpret_cast<const char*>(&side), sizeof(side));
  }
  return key;
}

// Sorts `id` by the decision that its bytes have taken.
void Decide(TokenSets& sets, size_t words, Decision decision, int32_t id) {
  if (decision == Decision::kNone) return;
  if (!sets.decides()) {
    sets.close.assign(words, 0);
    sets.more.assign(words, 0);
  }
  Insert(decision == Decision::kClose ? sets.close : sets.more, id);
}

}  // namespace

TokenSetCache::TokenSetCache(const Vocabulary* vocabulary) : vocabulary_(vocabulary) {
  CompileLabels();
}

std::shared_ptr<const TokenSets> TokenSetCache::Get(const BoxState& state) const {
  if (InNumber(state)) return std::make_shared<const TokenSets>(Walk(state));
  const std::string key = CacheKey(state);
  {
    const absl::MutexLock lock(&mu_);
    if (const auto found = cache_.find(key); found != cache_.end()) return found->second;
  }
  auto sets = std::make_shared<const TokenSets>(HasLabelSlot(state) ? InLabel(state) : Walk(state));
  const absl::MutexLock lock(&mu_);
  // Starting over is enough: a handful of states serves an image size.
  if (cached_words_ > kMaxCachedWords) {
    cache_.clear();
    cached_words_ = 0;
  }
  if (cache_.emplace(key, sets).second) cached_words_ += Words(*sets);
  return sets;
}

TokenSets TokenSetCache::Walk(const BoxState& state) const {
  TokenSets out;
  if (state.phase == Phase::kFree) return out;
  const VocabularyTrie& trie = vocabulary_->trie();
  const size_t words = vocabulary_->words();
  const bool masked = state.inside();
  if (masked) out.allowed.assign(words, 0);
  BoxState from = state;
  from.decision = Decision::kNone;
  trie.Walk(from, [&](int32_t node, const BoxState& here) {
    for (const int32_t id : trie.Tokens(node)) {
      if (masked) Insert(out.allowed, id);
      Decide(out, words, here.decision, id);
    }
    return true;
  });
  if (state.may_end()) {
    for (const int32_t id : vocabulary_->eos()) Insert(out.allowed, id);
  }
  return out;
}

bool TokenSetCache::HasLabelSlot(const BoxState& s) {
  return s.phase == Phase::kLabel && s.utf8 == 0 && s.escape == 0 && !s.label_full &&
         s.blank_closes && s.side[0] > 0 && s.side[1] > 0;
}

size_t TokenSetCache::LabelSlot(const BoxState& s) {
  return static_cast<size_t>(s.has_box) + 2 * static_cast<size_t>(s.bare) +
         4 * static_cast<size_t>(s.fence) + 8 * static_cast<size_t>(s.shape != Shape::kUnknown);
}

void TokenSetCache::CompileLabels() {
  const VocabularyTrie& trie = vocabulary_->trie();
  const size_t words = vocabulary_->words();
  for (size_t slot = 0; slot < kLabelSlots; ++slot) {
    const bool has_box = (slot & 1) != 0, bare = (slot & 2) != 0, later = (slot & 8) != 0;
    if (bare && later) continue;  // a single object has no later ones
    BoxState s;
    s.phase = Phase::kLabel;
    s.key = Key::kLabel;
    s.has_box = has_box;
    s.bare = bare;
    s.fence = (slot & 4) != 0;
    if (later) s.shape = has_box ? Shape::kBoxLabel : Shape::kLabelBox;
    s.side[0] = s.side[1] = 1;
    s.loose = true;
    LabelSets& out = labels_[slot];
    out.sets.allowed.assign(words, 0);
    trie.Walk(s, [&](int32_t node, const BoxState& here) {
      if (here.touched) {
        const auto below = trie.TokensBelow(node);
        out.by_size.insert(out.by_size.end(), below.begin(), below.end());
        return false;
      }
      for (const int32_t id : trie.Tokens(node)) {
        Insert(out.sets.allowed, id);
        Decide(out.sets, words, here.decision, id);
      }
      return true;
    });
  }
}

TokenSets TokenSetCache::InLabel(const BoxState& state) const {
  const LabelSets& label = labels_[LabelSlot(state)];
  TokenSets out = label.sets;
  for (const int32_t id : label.by_size) {
    BoxState walk = state;
    walk.decision = Decision::kNone;
    bool allowed = true;
    for (const char c : vocabulary_->Bytes(id)) {
      allowed = allowed && walk.Step(static_cast<uint8_t>(c));
    }
    if (!allowed) continue;
    Insert(out.allowed, id);
    Decide(out, vocabulary_->words(), walk.decision, id);
  }
  return out;
}

}  // namespace chord::grammar
