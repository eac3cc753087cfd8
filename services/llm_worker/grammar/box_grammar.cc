#include "services/llm_worker/grammar/box_grammar.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/model/pretokenize.h"
#include "common/text/unicode.h"
#include "services/llm_worker/grammar/box_automaton.h"
#include "services/llm_worker/grammar/label_drafter.h"
#include "services/llm_worker/grammar/vocabulary_trie.h"

namespace chord::grammar {
namespace {

using Mask = std::vector<uint64_t>;

constexpr size_t kMaxGuessBytes = 320;
constexpr size_t kGuessedDigits = 1;        // of a number
constexpr size_t kMaxLabels = 16;           // remembered of one answer
constexpr size_t kMaxTailBytes = 1024;      // tokenised again for Forced() and Guess()
constexpr size_t kMaxRemembered = 8192;     // tokenisations of structure ...
constexpr size_t kMaxStructureBytes = 256;  // ... up to this length

void Set(Mask& mask, int32_t id) {
  mask[static_cast<size_t>(id) / 64] |= uint64_t{1} << (static_cast<size_t>(id) % 64);
}
bool Has(absl::Span<const uint64_t> mask, int32_t id) {
  return (mask[static_cast<size_t>(id) / 64] >> (static_cast<size_t>(id) % 64) & 1) != 0;
}
bool IsBlank(int c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }
bool IsDigit(int c) { return c >= '0' && c <= '9'; }

// At most kMaxBlanks blanks, without memory of their own.
struct Blanks {
  uint8_t size = 0;
  std::array<char, kMaxBlanks> bytes{};

  absl::string_view view() const { return absl::string_view(bytes.data(), size); }
  void Push(char c) {
    if (size < bytes.size()) bytes[size++] = c;
  }
};

// Places where an answer may have blanks, each with what follows them.
enum Spot : uint8_t {
  kFirstObject,   // "[" _ "{"
  kFirstKey,      // "{" _ "\""
  kBoxColon,      // "bbox_2d" _ ":"
  kLabelColon,    // "label" _ ":"
  kBoxValue,      // ":" _ "["
  kLabelValue,    // ":" _ "\""
  kBeforeNumber,  // one for each coordinate
  kAfterNumber = kBeforeNumber + 4,
  kPairComma = kAfterNumber + 4,  // value _ ","
  kObjectEnd,                     // value _ "}"
  kSecondPair,                    // "," _ "\""
  kListComma,                     // "}" _ ","
  kListEnd,                       // "}" _ "]"
  kLaterObject,                   // "," _ "{"
  kFenceEnd,                      // "]" _ "```"
  kSpots
};

// How this answer has written its blanks so far.
struct Style {
  enum Knowledge : uint8_t { kUnknown, kKnown, kMixed };
  std::array<Blanks, kSpots> blanks;  // the last seen
  std::array<Knowledge, kSpots> knowledge{};

  void Learn(Spot spot, const Blanks& seen) {
    if (knowledge[spot] == kUnknown) {
      knowledge[spot] = kKnown;
    } else if (blanks[spot].view() != seen.view()) {
      knowledge[spot] = kMixed;
    }
    blanks[spot] = seen;
  }
};

// The spot at which `state` is, if the next byte that is no blank is `next`.
std::optional<Spot> SpotOf(const BoxState& state, char next) {
  const bool box = state.key == Key::kBox;
  switch (state.phase) {
    case Phase::kListOpen:
      return next == '{' ? std::optional(kFirstObject) : std::nullopt;
    case Phase::kObjectOpen:
      return kFirstKey;
    case Phase::kColon:
      return box ? kBoxColon : kLabelColon;
    case Phase::kValue:
      return box ? kBoxValue : kLabelValue;
    case Phase::kNumberStart:
      return static_cast<Spot>(kBeforeNumber + state.coordinate);
    case Phase::kNumber:
    case Phase::kNumberGap:
      if (IsDigit(next)) return std::nullopt;
      return static_cast<Spot>(kAfterNumber + state.coordinate);
    case Phase::kAfterPair:
      return next == ',' ? kPairComma : kObjectEnd;
    case Phase::kSecondKey:
      return kSecondPair;
    case Phase::kAfterObject:
      return next == ',' ? kListComma : kListEnd;
    case Phase::kNextObject:
      return kLaterObject;
    case Phase::kAfterList:
      return kFenceEnd;
    default:
      return std::nullopt;
  }
}

// The automaton together with what this answer has shown: its blanks and its labels.
struct Reader {
  BoxState state;
  Blanks gap;  // blanks since the last byte that was none
  Style style;
  std::string label;                // what is written of the label that is open
  std::vector<std::string> labels;  // the newest last
  int objects = 0;                  // whole ones
  int32_t box[4] = {0, 0, 0, 0};    // the numbers of the last box, as far as they are written
  int64_t sizes[2] = {0, 0};        // sums over the boxes of the answer
  int boxes = 0;

  // Like BoxState::Step; the reader is spoiled where the byte may not follow.
  bool Step(char c) {
    const BoxState before = state;
    if (!state.Step(static_cast<uint8_t>(c))) return false;
    if (before.phase == Phase::kLabel) {
      if (state.phase == Phase::kLabel) {
        label.push_back(c);
      } else {
        Remember();
      }
      gap = {};
      return true;
    }
    if (state.phase == Phase::kLabel) label.clear();
    if (IsBlank(c)) {
      gap.Push(c);
      return true;
    }
    if (before.inside()) {
      if (const auto spot = SpotOf(before, c)) style.Learn(*spot, gap);
    }
    if (c == '}') ++objects;
    if (state.coordinate > before.coordinate) EndNumber(before);
    if (before.phase == Phase::kAfterObject && c == ',') state.blank_closes = gap.size == 0;
    gap = {};
    return true;
  }

 private:
  void EndNumber(const BoxState& s) {
    box[s.coordinate] = s.value;
    if (s.coordinate != 3) return;
    ++boxes;
    for (int axis : {0, 1}) sizes[axis] += box[axis + 2] - box[axis];
  }
  void Remember() {
    const auto same = std::find(labels.begin(), labels.end(), label);
    if (same != labels.end()) labels.erase(same);
    if (labels.size() == kMaxLabels) labels.erase(labels.begin());
    labels.push_back(label);
  }
};

// --- what must come -------------------------------------------------------------------------

// The next byte on the way to `follower`, when the blanks before it are known.
int ForcedAtGap(const Reader& r, char follower) {
  const auto spot = SpotOf(r.state, follower);
  if (!spot.has_value() || r.style.knowledge[*spot] != Style::kKnown) return -1;
  const absl::string_view blanks = r.style.blanks[*spot].view();
  if (!absl::StartsWith(blanks, r.gap.view())) return -1;
  return r.gap.size < blanks.size() ? blanks[r.gap.size] : follower;
}

// The only byte that can come next, or -1.
int ForcedByte(const Reader& r) {
  const BoxState& s = r.state;
  switch (s.phase) {
    case Phase::kObjectOpen:
    case Phase::kSecondKey:
      return ForcedAtGap(r, '"');
    case Phase::kKey: {
      const Key key = s.key;
      if (key == Key::kNone) return -1;
      return (key == Key::kBox ? kBoxKey : kLabelKey)[s.at];
    }
    case Phase::kColon:
      return ForcedAtGap(r, ':');
    case Phase::kValue:
      return ForcedAtGap(r, s.key == Key::kBox ? '[' : '"');
    case Phase::kNumberStart: {
      const int c = ForcedAtGap(r, '0');
      return c == '0' ? -1 : c;
    }
    case Phase::kNumber:
    case Phase::kNumberGap:
      if (s.phase == Phase::kNumber) {
        if (!s.NumberMayEnd()) return -1;
        for (int d = 0; d < 10; ++d) {
          if (s.DigitMayFollow(d)) return -1;
        }
      }
      return ForcedAtGap(r, s.coordinate == 3 ? ']' : ',');
    case Phase::kLabel:
      return s.label_full && s.utf8 == 0 && s.escape == 0 ? '"' : -1;
    case Phase::kAfterPair:
      if (s.MayCloseObject() && s.MayHaveSecondPair()) return -1;
      return ForcedAtGap(r, s.MayCloseObject() ? '}' : ',');
    case Phase::kNextObject:
      return ForcedAtGap(r, '{');
    case Phase::kFenceClose:
      return '`';
    default:
      return -1;
  }
}

// --- what will probably come ----------------------------------------------------------------

std::string LikelyGap(const Reader& r, char follower, absl::string_view unknown) {
  const auto spot = SpotOf(r.state, follower);
  absl::string_view blanks = unknown;
  if (spot.has_value() && r.style.knowledge[*spot] != Style::kUnknown) {
    blanks = r.style.blanks[*spot].view();
  }
  const absl::string_view gap = r.gap.view();
  if (!absl::StartsWith(blanks, gap)) return std::string(1, follower);
  return absl::StrCat(blanks.substr(gap.size()), std::string(1, follower));
}

// The blanks of the number before, which this one will have too; of the first ones, `unknown`.
absl::string_view LikeTheNumberBefore(const Reader& r, Spot spots, int first,
                                      absl::string_view unknown) {
  if (r.state.coordinate <= first) return unknown;
  const auto before = static_cast<Spot>(spots + r.state.coordinate - 1);
  return r.style.knowledge[before] == Style::kUnknown ? unknown : r.style.blanks[before].view();
}

// The next digit of a number of which more than one may follow, or "". Only leading digits of the
// far corner: things of one answer are of like size, and about as high as wide.
std::string LikelyDigit(const Reader& r) {
  const BoxState& s = r.state;
  if (s.coordinate < 2) return "";
  const int axis = s.coordinate & 1;
  int64_t size = s.side[axis] / 5;
  if (r.boxes > 0) {
    size = r.sizes[axis] / r.boxes;
  } else if (axis == 1) {
    size = r.box[2] - r.box[0];
  }
  const std::string number =
      absl::StrCat(std::min<int64_t>(s.side[axis], s.low[axis] + std::max<int64_t>(size, 1)));
  const size_t at = s.digits;
  if (at + 1 >= number.size() || at >= kGuessedDigits) return "";
  if (at > 0 && number.substr(0, at) != absl::StrCat(s.value)) return "";
  return s.DigitMayFollow(number[at] - '0') ? number.substr(at, 1) : "";
}

// Some bytes that will probably come next; "" where there is no telling.
std::string LikelyBytes(const Reader& r, const LabelDrafter& guesser) {
  const BoxState& s = r.state;
  const bool lines = s.fence || absl::StrContains(r.style.blanks[kFirstObject].view(), "\n");
  switch (s.phase) {
    case Phase::kFenceOpen:
      return std::string(kFence.substr(s.at));
    case Phase::kFenceWord:
      return absl::StrCat(kFenceWord.substr(s.at), "\n");
    case Phase::kFenceBlank:
      return s.blanks == 0 ? "\n[" : "[";
    case Phase::kListOpen:
      return LikelyGap(r, '{', s.fence || r.gap.size > 0 ? "\n\t" : "");
    case Phase::kObjectOpen:
      return LikelyGap(r, '"', "");
    case Phase::kKey:
      return std::string(kBoxKey);
    case Phase::kColon:
      return LikelyGap(r, ':', "");
    case Phase::kValue:
      return LikelyGap(r, s.key == Key::kBox ? '[' : '"', " ");
    case Phase::kNumberStart: {
      std::string bytes =
          LikelyGap(r, '0', LikeTheNumberBefore(r, kBeforeNumber, 1, s.coordinate == 0 ? "" : " "));
      bytes.pop_back();
      if (!bytes.empty()) return bytes;
      [[fallthrough]];
    }
    case Phase::kNumber: {
      int only = -1, count = 0;
      for (int d = 0; d < 10; ++d) {
        if (s.DigitMayFollow(d)) {
          only = d;
          ++count;
        }
      }
      if (!s.NumberMayEnd() && count == 1) return std::string(1, static_cast<char>('0' + only));
      if (count > 0) return LikelyDigit(r);
      [[fallthrough]];
    }
    case Phase::kNumberGap:
      return LikelyGap(r, s.coordinate == 3 ? ']' : ',',
                       LikeTheNumberBefore(r, kAfterNumber, 0, ""));
    case Phase::kLabel: {
      if (s.escape != 0) return "";
      auto rest = guesser.Rest(r.label, r.labels);
      return rest.has_value() ? absl::StrCat(*rest, "\"") : "";
    }
    case Phase::kAfterPair:
      return s.MayHaveSecondPair() ? LikelyGap(r, ',', "") : LikelyGap(r, '}', "");
    case Phase::kSecondKey:
      return LikelyGap(r, '"', " ");
    case Phase::kAfterObject: {
      // Asked for one thing, the model says one; it goes on where it has gone on before.
      const bool more = guesser.many() || r.objects > 1;
      if (more && r.gap.size == 0) return LikelyGap(r, ',', "");
      return LikelyGap(r, ']', lines ? "\n" : "");
    }
    case Phase::kNextObject: {
      const absl::string_view first = r.style.blanks[kFirstObject].view();
      return LikelyGap(r, '{', !first.empty() ? first : lines ? "\n\t" : " ");
    }
    case Phase::kAfterList:
      return s.fence ? LikelyGap(r, '`', "\n") : "";
    default:
      return "";
  }
}

size_t LabelSlot(const BoxState& s) {
  return static_cast<size_t>(s.has_box) + 2 * static_cast<size_t>(s.bare) +
         4 * static_cast<size_t>(s.fence) + 8 * static_cast<size_t>(s.shape != Shape::kUnknown);
}
constexpr size_t kLabelSlots = 16;

// log(sum(exp(logits))). What is e^-40 of the greatest changes no digit of a double's sum that is
// ever read, and most of a vocabulary is below that.
double LogSumExp(absl::Span<const float> logits, float top) {
  double sum = 0;
  for (const float v : logits) {
    if (v > top - 40) sum += std::exp(static_cast<double>(v) - top);
  }
  return top + std::log(sum);
}

}  // namespace

struct BoxGrammar::Impl {
  const model::Tokenizer* tokenizer = nullptr;
  int32_t vocab_size = 0;
  std::vector<int32_t> eos;
  VocabularyTrie trie;

  // What a label's inside allows is nearly the whole vocabulary and depends on very little.
  struct LabelTokens {
    Mask mask;                      // ids allowed whatever the image's size
    std::vector<int32_t> by_image;  // ids that reach into a number: ask each time
    std::vector<int32_t> close, more;
    bool ready = false;
  };
  std::array<LabelTokens, kLabelSlots> label_tokens;

  // Tokenisations of structure, by what they depend on; see StableIds.
  mutable absl::Mutex mutex;
  mutable absl::flat_hash_map<std::string, std::vector<int32_t>> remembered ABSL_GUARDED_BY(mutex);

  size_t words() const { return (static_cast<size_t>(vocab_size) + 63) / 64; }
  bool IsEos(int32_t id) const { return std::find(eos.begin(), eos.end(), id) != eos.end(); }
  // The bytes by which an id moves the automaton; "" for those that never may.
  absl::string_view Bytes(int32_t id) const {
    if (id < 0 || id >= vocab_size || tokenizer->IsAdded(id) || IsEos(id)) return "";
    return tokenizer->TokenBytes(id);
  }

  static bool HasLabelSlot(const BoxState& s) {
    return s.phase == Phase::kLabel && s.utf8 == 0 && s.escape == 0 && !s.label_full &&
           s.blank_closes && s.side[0] > 0 && s.side[1] > 0;
  }

  void CompileLabels();
  // The mask in `state`, in `scratch` or in a place that stays; empty in free text.
  absl::Span<const uint64_t> Allowed(const BoxState& state, Mask& scratch) const;
  // Ids that decide where `from` is, in either way.
  void Deciders(const BoxState& from, std::vector<int32_t>& close,
                std::vector<int32_t>& more) const;
  bool DecidesByImage(BoxState from, int32_t id, Decision& decision) const;
  std::vector<int32_t> StableIds(absl::string_view text, const BoxState& end,
                                 bool no_blank_next) const;
};

void BoxGrammar::Impl::CompileLabels() {
  for (const bool fence : {false, true}) {
    for (const bool bare : {false, true}) {
      for (const bool has_box : {false, true}) {
        for (const bool later : {false, true}) {
          if (bare && later) continue;
          BoxState s;
          s.phase = Phase::kLabel;
          s.key = Key::kLabel;
          s.fence = fence;
          s.bare = bare;
          s.has_box = has_box;
          if (later) s.shape = has_box ? Shape::kBoxLabel : Shape::kLabelBox;
          s.side[0] = s.side[1] = 1;
          s.loose = true;
          LabelTokens& out = label_tokens[LabelSlot(s)];
          out.ready = true;
          out.mask.assign(words(), 0);
          trie.Walk(s, [&](int32_t node, const BoxState& here) {
            if (here.touched) {
              const auto below = trie.TokensBelow(node);
              out.by_image.insert(out.by_image.end(), below.begin(), below.end());
              return false;
            }
            for (const int32_t id : trie.Tokens(node)) {
              Set(out.mask, id);
              if (here.decision == Decision::kClose) out.close.push_back(id);
              if (here.decision == Decision::kMore) out.more.push_back(id);
            }
            return true;
          });
        }
      }
    }
  }
}

absl::Span<const uint64_t> BoxGrammar::Impl::Allowed(const BoxState& state, Mask& scratch) const {
  if (!state.inside()) return {};
  if (HasLabelSlot(state)) {
    const LabelTokens& label = label_tokens[LabelSlot(state)];
    if (label.by_image.empty()) return label.mask;
    scratch = label.mask;
    for (const int32_t id : label.by_image) {
      Decision ignored = Decision::kNone;
      if (DecidesByImage(state, id, ignored)) Set(scratch, id);
    }
    return scratch;
  }
  scratch.assign(words(), 0);
  trie.Walk(state, [&](int32_t node, const BoxState&) {
    for (const int32_t id : trie.Tokens(node)) Set(scratch, id);
    return true;
  });
  if (state.may_end()) {
    for (const int32_t id : eos) Set(scratch, id);
  }
  return scratch;
}

bool BoxGrammar::Impl::DecidesByImage(BoxState from, int32_t id, Decision& decision) const {
  from.decision = Decision::kNone;
  for (const char c : Bytes(id)) {
    if (!from.Step(static_cast<uint8_t>(c))) return false;
  }
  decision = from.decision;
  return true;
}

void BoxGrammar::Impl::Deciders(const BoxState& from, std::vector<int32_t>& close,
                                std::vector<int32_t>& more) const {
  close.clear();
  more.clear();
  if (HasLabelSlot(from)) {
    const LabelTokens& label = label_tokens[LabelSlot(from)];
    close = label.close;
    more = label.more;
    for (const int32_t id : label.by_image) {
      Decision d = Decision::kNone;
      if (!DecidesByImage(from, id, d)) continue;
      if (d == Decision::kClose) close.push_back(id);
      if (d == Decision::kMore) more.push_back(id);
    }
    return;
  }
  BoxState state = from;
  state.decision = Decision::kNone;
  trie.Walk(state, [&](int32_t node, const BoxState& here) {
    for (const int32_t id : trie.Tokens(node)) {
      if (here.decision == Decision::kClose) close.push_back(id);
      if (here.decision == Decision::kMore) more.push_back(id);
    }
    return true;
  });
}

// The ids of `text` that stay the same whatever of the language follows it; the last ones are left
// out where a longer token could begin in them. `end` is the state after the text (its numbers do
// not matter), `no_blank_next` says that its blanks are complete.
//
// A token that reaches over the end of the text is a suffix of it and a beginning of what follows.
// So it is enough to try, as what follows, each single byte that may (for the split into pieces,
// which looks one character ahead) and the rest of each such token that the vocabulary has: within
// a piece, what comes after that token cannot make it, only unmake it.
std::vector<int32_t> BoxGrammar::Impl::StableIds(absl::string_view text, const BoxState& end,
                                                 bool no_blank_next) const {
  BoxState loose = end;
  loose.loose = true;
  loose.value = 0;
  const std::string key = absl::StrCat(
      text, "\n", static_cast<int>(end.phase), ",", end.at, ",", static_cast<int>(end.key), ",",
      static_cast<int>(end.shape), ",", end.coordinate, ",", end.digits, ",",
      (end.fence ? 1 : 0) + (end.bare ? 2 : 0) + (end.has_box ? 4 : 0) + (end.has_label ? 8 : 0) +
          (no_blank_next ? 16 : 0) + (end.label_full ? 32 : 0));
  {
    const absl::MutexLock lock(&mutex);
    const auto found = remembered.find(key);
    if (found != remembered.end()) return found->second;
  }

  std::vector<int32_t> stable = tokenizer->EncodeText(text);
  std::string longer(text);
  const auto try_with = [&](absl::string_view rest) {
    if (no_blank_next && IsBlank(rest[0])) return;
    longer.resize(text.size());
    longer.append(rest.data(), rest.size());
    const std::vector<int32_t> ids = tokenizer->EncodeText(longer);
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
          for (const int32_t id : trie.Tokens(here)) try_with(Bytes(id).substr(suffix.size()));
          return !stable.empty();
        },
        node);
  }
  const absl::MutexLock lock(&mutex);
  if (remembered.size() < kMaxRemembered && key.size() <= kMaxStructureBytes)
    remembered.emplace(key, stable);
  return stable;
}

BoxGrammar::BoxGrammar(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BoxGrammar::~BoxGrammar() = default;

absl::StatusOr<std::shared_ptr<const BoxGrammar>> BoxGrammar::Compile(
    const model::Tokenizer& tokenizer, int vocab_size, absl::Span<const int32_t> eos_token_ids) {
  if (vocab_size <= 0 || vocab_size > limits::kMaxVocabularyIds) {
    return errors::CheckpointInvalid(absl::StrCat("vocabulary of ", vocab_size, " ids"));
  }
  if (eos_token_ids.empty()) return errors::CheckpointInvalid("no end token");
  for (const int32_t id : eos_token_ids) {
    if (id < 0 || id >= vocab_size) {
      return errors::CheckpointInvalid(
          absl::StrCat("end token ", id, " is outside the vocabulary"));
    }
  }
  auto impl = std::make_unique<Impl>();
  impl->tokenizer = &tokenizer;
  impl->vocab_size = vocab_size;
  impl->eos.assign(eos_token_ids.begin(), eos_token_ids.end());
  std::vector<std::pair<absl::string_view, int32_t>> tokens;
  std::array<bool, 256> alone{};
  for (int32_t id = 0; id < std::min(vocab_size, tokenizer.size()); ++id) {
    const absl::string_view bytes = impl->Bytes(id);
    if (bytes.empty()) continue;
    if (bytes.size() == 1) alone[static_cast<uint8_t>(bytes[0])] = true;
    tokens.emplace_back(bytes, id);
  }
  // With these any answer of the language can be written, so that no mask is ever empty.
  for (int b = 0; b < 256; ++b) {
    if (!alone[static_cast<size_t>(b)] && (b >= 0x20 || IsBlank(b)) && b != 0x7F && b != 0xC0 &&
        b != 0xC1 && b < 0xF5) {
      return errors::CheckpointInvalid(absl::StrCat("no token for byte ", b));
    }
  }
  impl->trie = VocabularyTrie(std::move(tokens));
  impl->CompileLabels();
  return std::shared_ptr<const BoxGrammar>(new BoxGrammar(std::move(impl)));
}

struct BoxCursor::State {
  const BoxGrammar::Impl* grammar;
  std::shared_ptr<const LabelDrafter> guesser;
  Reader reader;
  // The end of the answer that is tokenised again to see where tokens end: all of it after the last
  // token that ended in a digit, where a piece of the pre-tokenizer ends for certain.
  std::string tail;
  std::vector<int32_t> tail_ids;
  bool tail_lost = false;  // it grew too long
  size_t bytes = 0;        // accepted
  size_t after_bracket = 0, after_object = 0;
  // Allowed()'s answer; not copied with the rest.
  struct Scratch {
    Mask mask;
    Scratch() = default;
    Scratch(const Scratch&) {}
    Scratch& operator=(const Scratch&) { return *this; }
  } scratch;

  void Free() {
    reader.state.phase = Phase::kFree;
    tail.clear();
    tail_ids.clear();
  }
  std::vector<int32_t> Continue(absl::string_view more, const Reader* end) const;
};

// The ids by which the model would write `more` after what is there. `end`: only those that stay
// whatever follows the state after `more`, and none where the answer is not tokenised as the
// tokenizer does it; nullptr: its best guess.
std::vector<int32_t> BoxCursor::State::Continue(absl::string_view more, const Reader* end) const {
  if (tail_lost) return {};
  const std::string text = tail + std::string(more);
  // The piece in which `more` begins. Where pieces begin does not depend on what comes after them.
  size_t begin = 0;
  for (const absl::string_view piece : model::SplitIntoPieces(
           text::ToValidUtf8(text) == text ? absl::string_view(text) : absl::string_view())) {
    const auto at = static_cast<size_t>(piece.data() - text.data());
    if (at > tail.size()) break;
    begin = at;
  }
  size_t skipped = 0, first = 0;
  while (first < tail_ids.size() && skipped < begin) {
    skipped += grammar->tokenizer->TokenBytes(tail_ids[first++]).size();
  }
  std::vector<int32_t> ids;
  const auto before = absl::MakeConstSpan(tail_ids).subspan(first);
  const absl::string_view piece = absl::string_view(text).substr(begin);
  bool fits = skipped == begin;
  if (fits) {
    bool no_blank_next = false;
    if (end != nullptr && end->state.phase == Phase::kNumberStart) {
      no_blank_next = end->style.knowledge[kBeforeNumber + end->state.coordinate] == Style::kKnown;
    }
    ids = end == nullptr ? grammar->tokenizer->EncodeText(piece)
                         : grammar->StableIds(piece, end->state, no_blank_next);
    fits = ids.size() >= before.size() && std::equal(before.begin(), before.end(), ids.begin());
  }
  if (fits) {
    ids.erase(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(before.size()));
    return ids;
  }
  return end == nullptr ? grammar->tokenizer->EncodeText(more) : std::vector<int32_t>();
}

BoxCursor::BoxCursor(const BoxGrammar* grammar, const BoxRequest& prompt)
    : state_(std::make_unique<State>()) {
  state_->grammar = grammar->impl_.get();
  state_->guesser = std::make_shared<const LabelDrafter>(prompt.text);
  int32_t* side = state_->reader.state.side;
  side[0] = static_cast<int32_t>(std::clamp<int64_t>(prompt.width, 0, kMaxSide));
  side[1] = static_cast<int32_t>(std::clamp<int64_t>(prompt.height, 0, kMaxSide));
}
BoxCursor::BoxCursor(const BoxCursor& other) : state_(std::make_unique<State>(*other.state_)) {}
BoxCursor& BoxCursor::operator=(const BoxCursor& other) {
  *state_ = *other.state_;
  return *this;
}
BoxCursor::BoxCursor(BoxCursor&&) noexcept = default;
BoxCursor& BoxCursor::operator=(BoxCursor&&) noexcept = default;
BoxCursor::~BoxCursor() = default;

absl::Span<const uint64_t> BoxCursor::Allowed() {
  return state_->grammar->Allowed(state_->reader.state, state_->scratch.mask);
}

void BoxCursor::Accept(int32_t id) {
  State& st = *state_;
  BoxState& s = st.reader.state;
  const absl::string_view bytes = st.grammar->tokenizer->TokenBytes(id);
  const size_t begin = st.bytes;
  st.bytes += bytes.size();
  if (s.phase == Phase::kFree || s.phase == Phase::kEnded) return;
  if (st.grammar->IsEos(id) && s.may_end()) {
    s.phase = Phase::kEnded;
    return;
  }
  if (st.grammar->Bytes(id).empty()) return st.Free();
  for (size_t i = 0; i < bytes.size(); ++i) {
    const bool was_inside = s.inside();
    const int objects = st.reader.objects;
    if (!st.reader.Step(bytes[i])) return st.Free();
    if (!was_inside && s.inside()) st.after_bracket = s.bare ? 0 : begin + i + 1;
    if (st.reader.objects > objects) st.after_object = begin + i + 1;
  }
  if (s.phase == Phase::kLabel && s.label_bytes >= kMaxLabelBytes) s.label_full = true;
  if (IsDigit(bytes.back())) {
    st.tail.clear();
    st.tail_ids.clear();
    st.tail_lost = false;
  } else if (!st.tail_lost) {
    st.tail.append(bytes.data(), bytes.size());
    st.tail_ids.push_back(id);
    st.tail_lost = st.tail.size() > kMaxTailBytes;
  }
}

std::vector<int32_t> BoxCursor::Forced() const {
  Reader end = state_->reader;
  if (!end.state.inside()) return {};
  std::string text;
  for (int c; text.size() < kMaxGuessBytes && (c = ForcedByte(end)) >= 0;) {
    if (!end.Step(static_cast<char>(c))) return {};
    text.push_back(static_cast<char>(c));
  }
  if (text.empty()) return {};
  return state_->Continue(text, &end);
}

std::vector<int32_t> BoxCursor::Guess() const {
  Reader end = state_->reader;
  if (end.state.phase == Phase::kFree) return {};
  std::string text;
  while (text.size() < kMaxGuessBytes) {
    const int c = ForcedByte(end);
    const std::string next =
        c >= 0 ? std::string(1, static_cast<char>(c)) : LikelyBytes(end, *state_->guesser);
    if (next.empty()) break;
    bool taken = true;
    for (const char b : next) {
      taken = end.Step(b);
      if (!taken) break;
      text.push_back(b);
    }
    if (!taken) break;
  }
  if (text.empty()) return {};
  std::vector<int32_t> ids = state_->Continue(text, nullptr);
  BoxState walk = state_->reader.state;
  size_t allowed = 0;
  for (; allowed < std::min(ids.size(), kMaxGuess); ++allowed) {
    const absl::string_view bytes = state_->grammar->Bytes(ids[allowed]);
    bool taken = !bytes.empty();
    for (const char b : bytes) taken = taken && walk.Step(static_cast<uint8_t>(b));
    if (!taken) break;
    if (walk.phase == Phase::kLabel && walk.label_bytes >= kMaxLabelBytes) walk.label_full = true;
  }
  ids.resize(allowed);
  return ids;
}

std::optional<BoxCursor::Choice> BoxCursor::ListChoice(absl::Span<const float> logits) const {
  const BoxState& s = state_->reader.state;
  if (s.complete() || s.phase == Phase::kFree || logits.empty()) return std::nullopt;
  int32_t best = -1;
  const size_t n =
      std::min<size_t>(logits.size(), static_cast<size_t>(state_->grammar->vocab_size));
  Mask scratch;
  const auto mask = state_->grammar->Allowed(s, scratch);
  for (size_t i = 0; i < n; ++i) {
    const auto id = static_cast<int32_t>(i);
    if (best >= 0 && !(logits[i] > logits[static_cast<size_t>(best)])) continue;
    if (mask.empty() || Has(mask, id)) best = id;
  }
  return best < 0 ? std::nullopt : ListChoice(logits, best);
}

std::optional<BoxCursor::Choice> BoxCursor::ListChoice(absl::Span<const float> logits,
                                                       int32_t chosen) const {
  const BoxGrammar::Impl& g = *state_->grammar;
  const BoxState& s = state_->reader.state;
  if (logits.empty()) return std::nullopt;
  Decision decision = Decision::kNone;
  if (!g.DecidesByImage(s, chosen, decision) || decision == Decision::kNone) return std::nullopt;
  size_t offset = state_->bytes;
  BoxState walk = s;
  walk.decision = Decision::kNone;
  for (const char c : g.Bytes(chosen)) {
    walk.Step(static_cast<uint8_t>(c));
    if (walk.decision != Decision::kNone) break;
    ++offset;
  }
  std::vector<int32_t> close, more;
  g.Deciders(s, close, more);
  const float top = *std::max_element(logits.begin(), logits.end());
  const double all = LogSumExp(logits, top);
  const auto mass = [&](const std::vector<int32_t>& ids) {
    double sum = 0;
    for (const int32_t id : ids) {
      const auto i = static_cast<size_t>(id);
      if (i < logits.size()) sum += std::exp(static_cast<double>(logits[i] - top));
    }
    return sum > 0 ? top + std::log(sum) - all : -std::numeric_limits<double>::infinity();
  };
  return Choice{mass(close), mass(more), offset};
}

bool BoxCursor::inside() const { return state_->reader.state.inside(); }
bool BoxCursor::complete() const { return state_->reader.state.complete(); }
bool BoxCursor::may_end() const { return state_->reader.state.may_end(); }

BoxCursor::Cut BoxCursor::CloseHere() const {
  const BoxState& s = state_->reader.state;
  if (!s.inside()) return {};
  Cut cut;
  if (s.complete()) {  // of a fenced answer
    cut.keep_bytes = state_->bytes;
    cut.close = s.phase == Phase::kFenceClose ? std::string(kFence.substr(s.at))
                                              : absl::StrCat(s.blanks > 0 ? "" : "\n", kFence);
    return cut;
  }
  if (s.bare) return {};
  const bool some = state_->reader.objects > 0;
  cut.keep_bytes = some ? state_->after_object : state_->after_bracket;
  const absl::string_view first = state_->reader.style.blanks[kFirstObject].view();
  cut.close = some && absl::StrContains(first, "\n") ? "\n]" : "]";
  if (s.fence) absl::StrAppend(&cut.close, "\n", kFence);
  return cut;
}

}  // namespace chord::grammar
