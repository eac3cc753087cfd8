// What is asked of the model: which words, and which form of answer they ask for. Pure.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "services/gateway/ground.h"
#include "services/gateway/prompt.h"

namespace chord::gateway {

enum class AnswerForm { kText, kBoxes, kPoints };

// The form that a prompt asks for in its own words: kPoints for a prompt that begins with "point
// to" or "以点的形式" and for a mention of point_2d or <points; kBoxes for a mention of boxes,
// coordinates, or locating ("bbox", "locate", "detect", "坐标", "框", …); else kText.
AnswerForm FormAskedFor(absl::string_view prompt);

// `prompt` passed CheckPrompt. As WrapPrompt, for points: the wording that models of the Qwen2.5-VL
// family answer with {"point_2d": [x, y], "label": …}. A prompt that says how to answer stays.
std::string WrapPointPrompt(PromptWrapper wrapper, absl::string_view prompt);

inline constexpr size_t kMaxLabels = 64;
inline constexpr size_t kMaxLabelBytes = 128;
// PARAMETER_INVALID unless there are 1 to kMaxLabels labels, each of 1 to kMaxLabelBytes bytes of
// text without commas, quotes and control characters, and no two the same.
absl::Status CheckLabels(absl::Span<const std::string> labels);
// One prompt that asks for all objects of all labels.
std::string LabelsPrompt(PromptWrapper wrapper, absl::Span<const std::string> labels);

// What a model wants to be asked like.
struct PromptStyle {
  PromptWrapper wrapper = PromptWrapper::kNone;
  LabelPasses label_passes = LabelPasses::kOne;
};

struct PromptPlan {
  // For the model, at least one; of a conversation its last message. With `per_label` one for each
  // label of the input, in their order.
  std::vector<std::string> prompts;
  bool per_label = false;
  bool chinese = false;  // the language of advice
  bool grammar = true;   // decode under the box grammar
};
// The one of prompt, labels and conversation that `input` has; labels may end a conversation whose
// last message has no text. PROMPT_…, PARAMETER_INVALID.
absl::StatusOr<PromptPlan> PlanPrompt(const GroundInput& input, const PromptStyle& style,
                                      int64_t max_prompt_bytes);

// The answer's objects by the labels that were asked for, each object under at most one: the
// model's word is the label, its plural, or ends with it ("red cup" is a cup). In the order of
// `labels`. A label with objects has the least of their confidences; without, none is known.
std::vector<LabelMatch> MatchLabels(absl::Span<const std::string> labels,
                                    absl::Span<const GroundObject> objects);

}  // namespace chord::gateway
