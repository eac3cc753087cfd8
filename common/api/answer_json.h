// The JSON form of an answer: the contract of POST /api/ground and of `chord ground --json`.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "chord/v1/grounding.pb.h"

namespace chord::api {

// `advice` and `image_id` are left out when empty, `confidence` when it is unset.
nlohmann::ordered_json AnswerObject(const v1::GroundResponse& answer);
// The same as text; `indent` < 0 keeps it on one line. Ill-formed UTF-8 is replaced.
std::string AnswerJson(const v1::GroundResponse& answer, int indent = -1);

}  // namespace chord::api
