// What a language worker returned -> the answer's boxes, text and confidences. Pure: the worker's
// text and numbers are not trusted, whatever they are the result is well-formed.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "common/grounding/confidence.h"
#include "common/image/frame_plan.h"
#include "services/gateway/ground.h"

namespace chord::gateway {

// `cut` of the record: the text ends before the answer was whole, at max_new_tokens or at a stop
// sequence inside the list.
struct ModelAnswer : grounding::TokenRecord {
  std::string text;
  bool truncated = false;  // max_new_tokens was reached before the answer was complete
};

struct Thresholds {
  double advice = 0.75;
  double review = 0.7;
};

// Fills text, objects, confidence, calibrated, truncated, advice and evidence of `out`.
//
// With a map (common/grounding/confidence.h) an object's confidence is the fitted probability that
// its box is right; the answer's, that its boxes are right and all there are, never above the least
// of its objects'; without objects, that the thing is absent. Without a map (`map` null) they are
// the raw scores, and the answer's is the least of its objects'. Where the worker sent no
// probabilities that fit the text there is no evidence: objects have confidence 0. Text without any
// list is no evidence of absence, and neither are boxes outside the image: confidence 0.
//
// An answer that was cut keeps the objects that were complete. Without any it has no confidence: it
// says nothing about absence. The advice on a truncated one names max_new_tokens.
void FillAnswer(const ModelAnswer& answer, const image::FramePlan& frame, bool chinese,
                const Thresholds& thresholds, const grounding::ConfidenceMap* map,
                GroundResult& out);

// What to change in a request of which something was `found`, by `confidence` and `truncated` of
// its `result`; empty when there is nothing to advise.
std::string AdviceOn(const GroundResult& result, bool found, bool chinese,
                     const Thresholds& thresholds);

}  // namespace chord::gateway
