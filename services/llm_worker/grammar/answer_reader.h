// Reads an answer of the box grammar byte by byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "services/llm_worker/grammar/answer_style.h"
#include "services/llm_worker/grammar/box_automaton.h"

namespace chord::grammar {

// The automaton together with what one answer has shown: white space, labels, sizes, and where its
// complete parts end.
struct AnswerReader {
  static constexpr size_t kMaxLabels = 16;  // remembered of one answer

  BoxState state;
  Blanks gap;  // blanks since the last byte that was not one
  AnswerStyle style;
  std::string label;                // the written part of the label that is open
  std::vector<std::string> labels;  // the newest last
  int objects = 0;                  // complete ones
  int32_t box[4] = {0, 0, 0, 0};    // the numbers of the last box, as far as they are written
  int64_t sizes[2] = {0, 0};        // sums over the boxes of the answer
  int boxes = 0;                    // with four numbers
  // Offsets in bytes of the answer.
  size_t bytes = 0;         // read so far
  size_t after_object = 0;  // end of the last complete object
  size_t after_pair = 0;    // end of the last complete key and value
  size_t label_begin = 0;   // of the open label
  size_t label_end = 0;     // end of its last whole character

  // Like BoxState::Step. The reader must not be used after the byte was refused.
  bool Step(char c);

 private:
  void EndNumber(const BoxState& before);
  void RememberLabel();
};

}  // namespace chord::grammar
