#include "services/llm_worker/grammar/box_grammar.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "services/llm_worker/grammar/answer_reader.h"
#include "services/llm_worker/grammar/answer_tail.h"
#include "services/llm_worker/grammar/continuation.h"
#include "services/llm_worker/grammar/label_drafter.h"
#include "services/llm_worker/grammar/stable_tokens.h"
#include "services/llm_worker/grammar/vocabulary.h"

namespace chord::grammar {
namespace {

constexpr size_t kMaxDraftBytes = 320;

}  // namespace

struct BoxGrammar::Impl {
  explicit Impl(std::unique_ptr<const Vocabulary> v)
      : vocabulary(std::move(v)), sets(vocabulary.get()), stable(vocabulary.get()) {}

  const std::unique_ptr<const Vocabulary> vocabulary;
  const TokenSetCache sets;
  const StableTokens stable;
};

BoxGrammar::BoxGrammar(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
BoxGrammar::~BoxGrammar() = default;

absl::StatusOr<std::shared_ptr<const BoxGrammar>> BoxGrammar::Compile(
    const model::Tokenizer& tokenizer, int vocab_size, absl::Span<const int32_t> eos_token_ids) {
  CHORD_ASSIGN_OR_RETURN(auto vocabulary, Vocabulary::Create(tokenizer, vocab_size, eos_token_ids));
  return std::shared_ptr<const BoxGrammar>(
      new BoxGrammar(std::make_unique<const Impl>(std::move(vocabulary))));
}

struct BoxCursor::State {
  const BoxGrammar::Impl* grammar;
  std::shared_ptr<const LabelDrafter> drafter;
  AnswerReader reader;
  AnswerTail tail;

  void LeaveForm() {
    reader.state.phase = Phase::kFree;
    tail.Clear();
  }
};

BoxCursor::BoxCursor(const BoxGrammar* grammar, const BoxRequest& request)
    : state_(std::make_unique<State>()) {
  state_->grammar = grammar->impl_.get();
  state_->drafter = std::make_shared<const LabelDrafter>(request.text);
  int32_t* side = state_->reader.state.side;
  side[0] = static_cast<int32_t>(std::clamp<int64_t>(request.width, 0, kMaxSide));
  side[1] = static_cast<int32_t>(std::clamp<int64_t>(request.height, 0, kMaxSide));
}
BoxCursor::BoxCursor(const BoxCursor& other) : state_(std::make_unique<State>(*other.state_)) {}
BoxCursor& BoxCursor::operator=(const BoxCursor& other) {
  *state_ = *other.state_;
  return *this;
}
BoxCursor::BoxCursor(BoxCursor&&) noexcept = default;
BoxCursor& BoxCursor::operator=(BoxCursor&&) noexcept = default;
BoxCursor::~BoxCursor() = default;

std::shared_ptr<const TokenSets> BoxCursor::Sets() const {
  return state_->grammar->sets.Get(state_->reader.state);
}

std::optional<size_t> BoxCursor::DecisionOffset(int32_t id) const {
  size_t offset = state_->reader.bytes;
  std::optional<size_t> decided;
  BoxState walk = state_->reader.state;
  walk.decision = Decision::kNone;
  for (const char c : state_->grammar->vocabulary->Bytes(id)) {
    if (!walk.Step(static_cast<uint8_t>(c))) return std::nullopt;
    if (!decided && walk.decision != Decision::kNone) decided = offset;
    ++offset;
  }
  return decided;
}

void BoxCursor::Accept(int32_t id) {
  State& state = *state_;
  BoxState& s = state.reader.state;
  if (s.phase == Phase::kFree || s.phase == Phase::kEnded) return;
  const Vocabulary& vocabulary = *state.grammar->vocabulary;
  if (vocabulary.IsEos(id) && s.may_end()) {
    s.phase = Phase::kEnded;
    return;
  }
  const absl::string_view bytes = vocabulary.Bytes(id);
  if (bytes.empty()) return state.LeaveForm();
  for (const char c : bytes) {
    if (!state.reader.Step(c)) return state.LeaveForm();
  }
  if (s.phase == Phase::kLabel && s.label_bytes >= kMaxLabelBytes) s.label_full = true;
  state.tail.Append(id, bytes);
}

std::vector<int32_t> BoxCursor::JumpForward() const {
  AnswerReader end = state_->reader;
  if (!end.state.inside()) return {};
  std::string text;
  for (int c; text.size() < kMaxDraftBytes && (c = OnlyByte(end)) >= 0;) {
    if (!end.Step(static_cast<char>(c))) return {};
    text.push_back(static_cast<char>(c));
  }
  if (text.empty()) return {};
  const BoxState& s = end.state;
  const bool no_blank_next =
      s.phase == Phase::kNumberStart &&
      end.style.knowledge[kBeforeNumber + s.coordinate] == AnswerStyle::kKnown;
  return state_->tail.Continue(*state_->grammar->vocabulary, state_->grammar->stable, text,
                               AnswerTail::End{s, no_blank_next});
}

std::vector<int32_t> BoxCursor::Draft() const {
  AnswerReader end = state_->reader;
  if (end.state.phase == Phase::kFree) return {};
  std::string text;
  for (bool taken = true; taken && text.size() < kMaxDraftBytes;) {
    const int c = OnlyByte(end);
    const std::string next =
        c >= 0 ? std::string(1, static_cast<char>(c)) : DraftBytes(end, *state_->drafter);
    if (next.empty()) break;
    for (const char b : next) {
      taken = end.Step(b);
      if (!taken) break;
      text.push_back(b);
    }
  }
  if (text.empty()) return {};
  const Vocabulary& vocabulary = *state_->grammar->vocabulary;
  std::vector<int32_t> ids =
      state_->tail.Continue(vocabulary, state_->grammar->stable, text, std::nullopt);
  BoxState walk = state_->reader.state;
  size_t allowed = 0;
  for (; allowed < std::min(ids.size(), kMaxDraftTokens); ++allowed) {
    const absl::string_view bytes = vocabulary.Bytes(ids[allowed]);
    bool taken = !bytes.empty();
    for (const char b : bytes) taken = taken && walk.Step(static_cast<uint8_t>(b));
    if (!taken) break;
    if (walk.phase == Phase::kLabel && walk.label_bytes >= kMaxLabelBytes) walk.label_full = true;
  }
  ids.resize(allowed);
  return ids;
}

bool BoxCursor::inside() const { return state_->reader.state.inside(); }
bool BoxCursor::complete() const { return state_->reader.state.complete(); }
bool BoxCursor::may_end() const { return state_->reader.state.may_end(); }

std::optional<BoxCursor::Closing> BoxCursor::CloseTruncated() const {
  const AnswerReader& reader = state_->reader;
  const BoxState& s = reader.state;
  if (!s.inside() || s.may_end()) return std::nullopt;
  Closing out;
  if (s.complete()) {  // the list is closed, its fence is not
    out.keep_bytes = reader.bytes;
    out.text = s.phase == Phase::kFenceClose ? std::string(kFence.substr(s.at))
                                             : absl::StrCat(s.blanks > 0 ? "" : "\n", kFence);
    return out;
  }
  if (s.InObject() && s.has_box) {
    const bool in_label = s.phase == Phase::kLabel && reader.label_end > reader.label_begin;
    out.keep_bytes = in_label ? reader.label_end : reader.after_pair;
    out.text = in_label ? "\"}" : "}";
  } else if (reader.objects > 0) {
    out.keep_bytes = reader.after_object;
  } else {
    return std::nullopt;
  }
  if (!s.bare) {
    const absl::string_view first = reader.style.blanks[kFirstObject].view();
    absl::StrAppend(&out.text, absl::StrContains(first, "\n") ? "\n]" : "]");
  }
  if (s.fence) absl::StrAppend(&out.text, "\n", kFence);
  return out;
}

}  // namespace chord::grammar
