#include "services/llm_worker/grammar/answer_style.h"

#include "common/text/ascii.h"

namespace chord::grammar {

std::optional<Gap> GapOf(const BoxState& state, char next) {
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
      return static_cast<Gap>(kBeforeNumber + state.coordinate);
    case Phase::kNumber:
    case Phase::kNumberGap:
      if (text::IsDigit(next)) return std::nullopt;
      return static_cast<Gap>(kAfterNumber + state.coordinate);
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

}  // namespace chord::grammar
