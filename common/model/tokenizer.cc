#include "common/model/tokenizer.h"

#include <algorithm>
#include <array>
#include <queue>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/pretokenize.h"
#include "common/model/tokenizer_file.h"
#include "common/text/unicode.h"

namespace chord::model {
namespace {

struct Merge {
  int32_t rank;
  int32_t id;  // of the two parts together
};

// The pair (left, right) as one key.
uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

using MergeTable = absl::flat_hash_map<uint64_t, Merge>;

// Merges the symbols of one piece in order of rank, leftmost first among equals, with a heap over a
// linked list: n log n. A heap entry is stale when the pair at its place no longer gives its id.
class Merger {
 public:
  explicit Merger(const MergeTable& table) : table_(table) {}

  // Appends the ids of the piece whose bytes have the ids `symbols`.
  void Run(const std::vector<int32_t>& symbols, std::vector<int32_t>& out) {
    nodes_.clear();
    const auto n = static_cast<int32_t>(symbols.size());
    for (int32_t i = 0; i < n; ++i) {
      nodes_.push_back({symbols[static_cast<size_t>(i)], i - 1, i + 1 < n ? i + 1 : -1, true});
    }
    for (int32_t i = 0; i < n; ++i) Offer(i);
    while (!queue_.empty()) {
      const Candidate top = queue_.top();
      queue_.pop();
      Node& left = At(top.at);
      if (!left.alive || left.next < 0) continue;
      Node& right = At(left.next);
      const auto found = table_.find(PairKey(left.id, right.id));
      if (found == table_.end() || found->second.id != top.id) continue;
      left.id = top.id;
      right.alive = false;
      left.next = right.next;
      if (left.next >= 0) At(left.next).previous = top.at;
      if (left.previous >= 0) Offer(left.previous);
      Offer(top.at);
    }
    for (const Node& node : nodes_) {
      if (node.alive) out.push_back(node.id);
    }
  }

 private:
  struct Node {
    int32_t id, previous, next;
    bool alive;
  };
  struct Candidate {
    int32_t rank, at, id;
    bool operator<(const Candidate& other) const {  // the queue's top is the lowest
      return std::pair(rank, at) > std::pair(other.rank, other.at);
    }
  };

  Node& At(int32_t i) { return nodes_[static_cast<size_t>(i)]; }

  // Queues the merge of node `i` with its right neighbour, if there is one.
  void Offer(int32_t i) {
    const Node& left = At(i);
    if (left.next < 0) return;
    const auto found = table_.find(PairKey(left.id, At(left.next).id));
    if (found != table_.end()) queue_.push({found->second.rank, i, found->second.id});
  }

  const MergeTable& table_;
  std::vector<Node> nodes_;
  std::priority_queue<Candidate> queue_;
};

bool IsSpace(int32_t code_point) {
  const text::CharClass kind = text::ClassOf(code_point);
  return kind == text::CharClass::kSpace || kind == text::CharClass::kNewline;
}

// The last character of `text`, which is not empty and valid UTF-8.
text::Rune LastRune(absl::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return text::FirstRune(text.substr(at));
}

// Finds added tokens: leftmost match, the longest of those that start there. What their flags ask
// of the text around them comes second, as in the reference library: a word's part that looks like
// a token of whole words is passed over, also where a shorter token would fit.
class Matcher {
 public:
  void Add(TokenizerFile::AddedToken token) {
    auto& bucket = by_first_byte_[static_cast<uint8_t>(token.content[0])];
    bucket.push_back(std::move(token));
    std::sort(bucket.begin(), bucket.end(),
              [](const auto& a, const auto& b) { return a.content.size() > b.content.size(); });
  }

  bool empty() const {
    return std::all_of(by_first_byte_.begin(), by_first_byte_.end(),
                       [](const auto& bucket) { return bucket.empty(); });
  }

  // Calls text(view) for what lies between matches (never empty) and token(id) for matches.
  template <typename Text, typename Token>
  void Cut(absl::string_view input, Text text, Token token) const {
    Cut(input, text, token, [&input](size_t) { return input.size(); });
  }
  // The same, where a match that begins at `at` may not reach behind reach(at); `at` only rises.
  template <typename Text, typename Token, typename Reach>
  void Cut(absl::string_view input, Text text, Token token, Reach reach) const {
    size_t begin = 0, at = 0;
    while (at < input.size()) {
      const TokenizerFile::AddedToken* hit = Longest(input.substr(at, reach(at) - at));
      if (hit == nullptr) {
        ++at;
        continue;
      }
      size_t from = at, to = at + hit->content.size();
      at = to;
      const absl::string_view after = input.substr(to);
      if (hit->single_word &&
          ((from > 0 && text::IsWordCharacter(LastRune(input.substr(0, from)).code_point)) ||
           (!after.empty() && text::IsWordCharacter(text::FirstRune(after).code_point)))) {
        continue;
      }
      if (hit->lstrip) {
        while (from > begin) {
          const text::Rune rune = LastRune(input.substr(begin, from - begin));
          if (!IsSpace(rune.code_point)) break;
          from -= rune.bytes;
        }
      }
      if (hit->rstrip) {
        while (to < input.size()) {
          const text::Rune rune = text::FirstRune(input.substr(to));
          if (!IsSpace(rune.code_point)) break;
          to += rune.bytes;
        }
      }
      if (from > begin) text(input.substr(begin, from - begin));
      token(hit->id);
      begin = std::max(begin, to);
    }
    if (begin < input.size()) text(input.substr(begin));
  }

 private:
  const TokenizerFile::AddedToken* Longest(absl::string_view rest) const {
    if (rest.empty()) return nullptr;
    for (const auto& entry : by_first_byte_[static_cast<uint8_t>(rest[0])]) {
      if (absl::StartsWith(rest, entry.content)) return &entry;
    }
    return nullptr;
  }

  std::array<std::vector<TokenizerFile::AddedToken>, 256> by_first_byte_;
};

absl::Span<const Tokenizer::Run>::iterator FirstRunBehind(absl::Span<const Tokenizer::Run> runs,
                                                          size_t byte) {
  return std::upper_bound(runs.begin(), runs.end(), byte,
                          [](size_t b, const Tokenizer::Run& run) { return b < run.end; });
}

bool IsMarker(absl::string_view content) {
  for (const absl::string_view marker :
       {"<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"}) {
    if (content == marker) return true;
  }
  return false;
}

}  // namespace

struct Tokenizer::Impl {
  enum Flag : uint8_t { kAdded = 1, kSpecial = 2, kMarker = 4 };

  std::string bytes;              // of all ids, one after the other
  std::vector<uint32_t> offsets;  // id -> its bytes begin there; one more at the end
  std::vector<uint8_t> flags;     // id -> Flag
  std::array<int32_t, 256> byte_ids{};
  MergeTable merges;
  absl::flat_hash_map<std::string, int32_t> added;
  Matcher raw;         // added tokens looked for in the text as it is
  Matcher normalized;  // added tokens looked for after NFC
  bool nfc = true;

  std::string Normalize(absl::string_view text) const {
    return nfc ? text::Nfc(text) : std::string(text);
  }
  bool Has(int32_t id) const { return id >= 0 && static_cast<size_t>(id) < flags.size(); }

  // `text` is normalized.
  void EncodeSegment(absl::string_view text, std::vector<int32_t>& out) const {
    Merger merger(merges);
    std::vector<int32_t> symbols;
    for (const absl::string_view piece : SplitIntoPieces(text)) {
      symbols.clear();
      for (const char c : piece) symbols.push_back(byte_ids[static_cast<uint8_t>(c)]);
      merger.Run(symbols, out);
    }
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

absl::StatusOr<Tokenizer> Tokenizer::Load(const std::string& path) {
  CHORD_ASSIGN_OR_RETURN(const std::string json, ReadTokenizerFile(path));
  return Parse(json);
}

absl::StatusOr<Tokenizer> Tokenizer::Parse(absl::string_view json) {
  CHORD_ASSIGN_OR_RETURN(TokenizerFile file, ParseTokenizerFile(json));
  auto impl = std::make_unique<Impl>();
  impl->byte_ids = file.byte_ids;
  impl->nfc = file.nfc;
  impl->flags.assign(file.tokens.size(), 0);
  impl->offsets.reserve(file.tokens.size() + 1);
  for (const std::string& token : file.tokens) {
    impl->offsets.push_back(static_cast<uint32_t>(impl->bytes.size()));
    impl->bytes += token;
  }
  impl->offsets.push_back(static_cast<uint32_t>(impl->bytes.size()));
  impl->merges.reserve(file.merges.size());
  int32_t rank = 0;
  for (const TokenizerFile::Merge& merge : file.merges) {
    impl->merges.insert_or_assign(PairKey(merge.left, merge.right), Merge{rank++, merge.merged});
  }
  for (TokenizerFile::AddedToken& token : file.added_tokens) {
    impl->flags[static_cast<size_t>(token.id)] |=
        static_cast<uint8_t>(Impl::kAdded | (token.special ? Impl::kSpecial : 0) |
                             (IsMarker(token.content) ? Impl::kMarker : 0));
    impl->added.emplace(token.content, token.id);
    if (token.normalized) {
      token.content = impl->Normalize(token.content);
      impl->normalized.Add(std::move(token));
    } else {
      impl->raw.Add(std::move(token));
    }
  }
  return Tokenizer(std::move(impl));
}

std::vector<int32_t> Tokenizer::EncodeText(absl::string_view text) const {
  std::vector<int32_t> ids;
  impl_->EncodeSegment(impl_->Normalize(text::ToValidUtf8(text)), ids);
  return ids;
}

std::vector<int32_t> Tokenizer::EncodeWithAddedTokens(absl::string_view text) const {
  std::vector<int32_t> ids;
  const auto token = [&ids](int32_t id) { ids.push_back(id); };
  const auto segment = [&](absl::string_view s) { impl_->EncodeSegment(s, ids); };
  impl_->raw.Cut(
      text::ToValidUtf8(text),
      [&](absl::string_view s) { impl_->normalized.Cut(impl_->Normalize(s), segment, token); },
      token);
  return ids;
}

std::vector<int32_t> Tokenizer::EncodeRuns(absl::string_view text,
                                           absl::Span<const Run> runs) const {
  std::vector<int32_t> ids;
  std::string pending;  // text since the last token
  const auto token = [&](int32_t id) {
    impl_->EncodeSegment(impl_->Normalize(pending), ids);
    pending.clear();
    ids.push_back(id);
  };
  const auto keep = [&pending](absl::string_view s) { absl::StrAppend(&pending, s); };
  // Tokens that are looked for in normalized text are looked for in each trusted run by itself.
  const auto between = [&](absl::string_view s) {
    const auto from = static_cast<size_t>(s.data() - text.data());
    size_t begin = from;
    for (auto run = FirstRunBehind(runs, from); begin < from + s.size(); ++run) {
      const size_t end = std::min(run->end, from + s.size());
      const absl::string_view part = text.substr(begin, end - begin);
      if (run->trusted && !impl_->normalized.empty()) {
        impl_->normalized.Cut(impl_->Normalize(part), keep, token);
      } else {
        keep(part);
      }
      begin = end;
    }
  };
  const auto reach = [run = runs.begin()](size_t at) mutable {
    while (run->end <= at) ++run;
    return run->trusted ? run->end : at;
  };
  impl_->raw.Cut(text, between, token, reach);
  impl_->EncodeSegment(impl_->Normalize(pending), ids);
  return ids;
}

absl::string_view Tokenizer::TokenBytes(int32_t id) const {
  if (!impl_->Has(id)) return "";
  const auto i = static_cast<size_t>(id);
  return absl::string_view(impl_->bytes)
      .substr(impl_->offsets[i], impl_->offsets[i + 1] - impl_->offsets[i]);
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return impl_->Has(id) && (impl_->flags[static_cast<size_t>(id)] & Impl::kSpecial) != 0;
}

bool Tokenizer::IsAnswerMarker(int32_t id) const {
  return impl_->Has(id) && (impl_->flags[static_cast<size_t>(id)] & Impl::kMarker) != 0;
}

bool Tokenizer::IsAdded(int32_t id) const {
  return impl_->Has(id) && (impl_->flags[static_cast<size_t>(id)] & Impl::kAdded) != 0;
}

int32_t Tokenizer::AddedTokenId(absl::string_view content) const {
  const auto found = impl_->added.find(content);
  return found == impl_->added.end() ? -1 : found->second;
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (skip_special && IsSpecial(id)) continue;
    const absl::string_view token = TokenBytes(id);
    bytes.append(token.data(), token.size());
  }
  return text::ToValidUtf8(bytes);
}

int32_t Tokenizer::size() const { return static_cast<int32_t>(impl_->flags.size()); }

std::string StreamDecoder::Push(int32_t id) {
  if (!skip_special_ || !tokenizer_->IsSpecial(id) || tokenizer_->IsAnswerMarker(id)) {
    const absl::string_view token = tokenizer_->TokenBytes(id);
    tail_.append(token.data(), token.size());
  }
  const size_t keep = text::IncompleteTail(tail_);
  std::string whole = text::ToValidUtf8(absl::string_view(tail_).substr(0, tail_.size() - keep));
  tail_.erase(0, tail_.size() - keep);
  return whole;
}

std::string StreamDecoder::Finish() { return text::ToValidUtf8(std::exchange(tail_, {})); }

}  // namespace chord::model
