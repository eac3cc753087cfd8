#include "services/llm_worker/grammar/answer_reader.h"

#include <algorithm>

#include "common/text/ascii.h"

namespace chord::grammar {

bool AnswerReader::Step(char c) {
  const BoxState before = state;
  if (!state.Step(static_cast<uint8_t>(c))) return false;
  ++bytes;
  if (state.phase == Phase::kAfterPair && before.phase != Phase::kAfterPair) after_pair = bytes;
  if (before.phase == Phase::kLabel) {
    if (state.phase == Phase::kLabel) {
      label.push_back(c);
      if (state.utf8 == 0 && state.escape == 0) label_end = bytes;
    } else {
      RememberLabel();
    }
    gap = {};
    return true;
  }
  if (state.phase == Phase::kLabel) {
    label.clear();
    label_begin = label_end = bytes;
  }
  if (text::IsJsonBlank(c)) {
    gap.Push(c);
    return true;
  }
  if (before.inside()) {
    if (const auto at = GapOf(before, c)) style.Learn(*at, gap);
  }
  if (c == '}') {
    ++objects;
    after_object = bytes;
  }
  if (state.coordinate > before.coordinate) EndNumber(before);
  if (before.phase == Phase::kAfterObject && c == ',') state.blank_closes = gap.size == 0;
  gap = {};
  return true;
}

void AnswerReader::EndNumber(const BoxState& before) {
  box[before.coordinate] = before.value;
  if (before.coordinate != 3) return;
  ++boxes;
  for (const int axis : {0, 1}) sizes[axis] += box[axis + 2] - box[axis];
}

void AnswerReader::RememberLabel() {
  const auto same = std::find(labels.begin(), labels.end(), label);
  if (same != labels.end()) labels.erase(same);
  if (labels.size() == kMaxLabels) labels.erase(labels.begin());
  labels.push_back(label);
}

}  // namespace chord::grammar
