// The answers to one prompt a label -> the answer to the request. Pure.
#pragma once

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "services/gateway/answer_builder.h"
#include "services/gateway/ground.h"

namespace chord::gateway {

// `parts[i]` answers labels[i]; all are about the same frame, and there is at least one.
//
// Objects come in the order of the labels, each in the match of the label it was asked by, and a
// match has the confidence of its part: an object that two labels name is there for both. The
// answer's confidence is the least of the parts'; nullopt when a part has none and no part has an
// object. The advice is about the label that is least sure. It is truncated when a part is. Texts
// are joined by line breaks; tokens and steps add up, times are those of the longest part, the
// first token is the earliest. There is no evidence.
GroundResult MergeByLabel(absl::Span<const std::string> labels, std::vector<GroundResult> parts,
                          bool chinese, const Thresholds& thresholds);

}  // namespace chord::gateway
