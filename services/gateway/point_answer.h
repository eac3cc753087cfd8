// Points of an answer. Pure: the worker's text and numbers are not trusted.
#pragma once

#include "services/gateway/answer_builder.h"
#include "services/gateway/ground.h"

namespace chord::gateway {

// After FillAnswer. Fills points; of an answer that has points and no boxes also text and
// confidence (the least of its points', raw) and takes the advice for an absence away.
void FillPoints(const ModelAnswer& answer, const image::FramePlan& frame, GroundResult& out);

}  // namespace chord::gateway
