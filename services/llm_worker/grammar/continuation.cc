#include "services/llm_worker/grammar/continuation.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace chord::grammar {
namespace {

constexpr size_t kDraftDigits = 1;  // of a number

// The next byte on the way to `follower`, when the blanks before it are known.
int OnlyByteInGap(const AnswerReader& r, char follower) {
  const auto gap = GapOf(r.state, follower);
  if (!gap.has_value() || r.style.knowledge[*gap] != AnswerStyle::kKnown) return -1;
  const absl::string_view blanks = r.style.blanks[*gap].view();
  if (!absl::StartsWith(blanks, r.gap.view())) return -1;
  return r.gap.size < blanks.size() ? blanks[r.gap.size] : follower;
}

std::string LikelyGap(const AnswerReader& r, char follower, absl::string_view unknown) {
  const auto gap = GapOf(r.state, follower);
  absl::string_view blanks = unknown;
  if (gap.has_value() && r.style.knowledge[*gap] != AnswerStyle::kUnknown) {
    blanks = r.style.blanks[*gap].view();
  }
  const absl::string_view written = r.gap.view();
  if (!absl::StartsWith(blanks, written)) return std::string(1, follower);
  return absl::StrCat(blanks.substr(written.size()), std::string(1, follower));
}

// The blanks of the number before, which this one will have too; of the first ones, `unknown`.
absl::string_view LikeTheNumberBefore(const AnswerReader& r, Gap gaps, int first,
                                      absl::string_view unknown) {
  if (r.state.coordinate <= first) return unknown;
  const auto before = static_cast<Gap>(gaps + r.state.coordinate - 1);
  return r.style.knowledge[before] == AnswerStyle::kUnknown ? unknown
                                                            : r.style.blanks[before].view();
}

// The next digit of a number of which more than one may follow, or "". Only leading digits of the
// far corner: things of one answer are of like size, and about as high as wide.
std::string LikelyDigit(const AnswerReader& r) {
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
  if (at + 1 >= number.size() || at >= kDraftDigits) return "";
  if (at > 0 && number.substr(0, at) != absl::StrCat(s.value)) return "";
  return s.DigitMayFollow(number[at] - '0') ? number.substr(at, 1) : "";
}

}  // namespace

int OnlyByte(const AnswerReader& r) {
  const BoxState& s = r.state;
  switch (s.phase) {
    case Phase::kObjectOpen:
    case Phase::kSecondKey:
      return OnlyByteInGap(r, '"');
    case Phase::kKey: {
      const Key key = s.key;
      if (key == Key::kNone) return -1;
      return (key == Key::kBox ? kBoxKey : kLabelKey)[s.at];
    }
    case Phase::kColon:
      return OnlyByteInGap(r, ':');
    case Phase::kValue:
      return OnlyByteInGap(r, s.key == Key::kBox ? '[' : '"');
    case Phase::kNumberStart: {
      const int c = OnlyByteInGap(r, '0');
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
      return OnlyByteInGap(r, s.coordinate == 3 ? ']' : ',');
    case Phase::kLabel:
      return s.label_full && s.utf8 == 0 && s.escape == 0 ? '"' : -1;
    case Phase::kAfterPair:
      if (s.MayCloseObject() && s.MayHaveSecondPair()) return -1;
      return OnlyByteInGap(r, s.MayCloseObject() ? '}' : ',');
    case Phase::kNextObject:
      return OnlyByteInGap(r, '{');
    case Phase::kFenceClose:
      return '`';
    default:
      return -1;
  }
}

std::string DraftBytes(const AnswerReader& r, const LabelDrafter& drafter) {
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
      auto rest = drafter.Rest(r.label, r.labels);
      return rest.has_value() ? absl::StrCat(*rest, "\"") : "";
    }
    case Phase::kAfterPair:
      return s.MayHaveSecondPair() ? LikelyGap(r, ',', "") : LikelyGap(r, '}', "");
    case Phase::kSecondKey:
      return LikelyGap(r, '"', " ");
    case Phase::kAfterObject: {
      // A prompt for one thing gets one object; a list that has continued before continues.
      const bool more = drafter.many() || r.objects > 1;
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

}  // namespace chord::grammar
