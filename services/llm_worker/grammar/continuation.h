// What must and what will probably come next in an answer, in bytes.
#pragma once

#include <string>

#include "services/llm_worker/grammar/answer_reader.h"
#include "services/llm_worker/grammar/label_drafter.h"

namespace chord::grammar {

// The only byte that can come next, or -1. Of blanks, those that this answer has already written in
// the same gap count as the only choice.
int OnlyByte(const AnswerReader& reader);

// Some bytes that will probably come next; "" where nothing can be predicted.
std::string DraftBytes(const AnswerReader& reader, const LabelDrafter& drafter);

}  // namespace chord::grammar
