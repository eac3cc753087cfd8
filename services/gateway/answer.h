// What a language worker said -> the answer's boxes, text and confidences. Pure: the worker's words
// and numbers are not trusted, whatever they are the result is well-formed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/image/frame_plan.h"
#include "services/gateway/ground.h"

namespace chord::gateway {

struct ModelAnswer {
  std::string text;
  std::vector<int64_t> token_ends;        // bytes of `text`
  std::vector<double> log_probabilities;  // natural, one per token
  std::optional<double> log_probability_empty;
};

struct Thresholds {
  double advice = 0.75;
  double review = 0.7;
};

// Fills text, objects, confidence and advice of `out`.
//
// An object's confidence is the geometric mean of its coordinate tokens' probabilities, 0 when the
// worker sent none that fit the text. The answer's is the least of its objects': an answer is right
// when all its boxes are. Without objects it is the probability of the empty list when the worker
// knows it, else the geometric mean over the tokens of a list that the model wrote as empty; words
// without any list say nothing about absence, so they have confidence 0.
void FillAnswer(const ModelAnswer& said, const image::FramePlan& frame, bool chinese,
                const Thresholds& thresholds, GroundResult& out);

}  // namespace chord::gateway
