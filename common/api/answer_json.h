// The JSON form of an answer: the contract of POST /api/ground and of `chord ground --json`.
#pragma once

#include <string>

#include "chord/v1/grounding.pb.h"

namespace chord::api {

// One JSON object; `indent` < 0 keeps it on one line. `advice` and `image_id` are left out when
// empty. Ill-formed UTF-8 is replaced, never thrown at.
std::string AnswerJson(const v1::GroundResponse& answer, int indent = -1);

}  // namespace chord::api
