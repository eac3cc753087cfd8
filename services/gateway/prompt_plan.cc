#include "services/gateway/prompt_plan.h"

#include <algorithm>
#include <initializer_list>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"

namespace chord::gateway {
namespace {

bool MentionsAny(absl::string_view lower, std::initializer_list<absl::string_view> words) {
  return std::any_of(words.begin(), words.end(),
                     [lower](absl::string_view word) { return absl::StrContains(lower, word); });
}

// Only at the beginning: "the arrow that points to the exit" describes a thing.
bool BeginsWithPointing(absl::string_view lower) {
  lower = absl::StripLeadingAsciiWhitespace(lower);
  for (absl::string_view polite : {"please ", "can you ", "could you ", "请"}) {
    absl::ConsumePrefix(&lower, polite);
  }
  for (absl::string_view begin : {"point to ", "point at ", "以点的形式", "用点标", "指向"}) {
    if (absl::StartsWith(lower, begin)) return true;
  }
  return false;
}

bool SaysHowToPoint(absl::string_view lower) {
  return MentionsAny(lower, {"point_2d", "<point", "json", "xml", "coordinate", "坐标", "座標"});
}

// A label in lower case without leading article and repeated blanks, for comparison.
std::string Normalized(absl::string_view label) {
  std::string out;
  for (absl::string_view rest = label; !rest.empty();) {
    rest = absl::StripLeadingAsciiWhitespace(rest);
    const absl::string_view word = rest.substr(0, rest.find_first_of(" \t\n"));
    rest.remove_prefix(word.size());
    const std::string lower = absl::AsciiStrToLower(word);
    if (out.empty() && (lower == "the" || lower == "a" || lower == "an")) continue;
    if (!lower.empty()) absl::StrAppend(&out, out.empty() ? "" : " ", lower);
  }
  return out;
}

bool SameButForNumber(absl::string_view a, absl::string_view b) {
  if (a.size() > b.size()) std::swap(a, b);
  if (b == absl::StrCat(a, "s") || b == absl::StrCat(a, "es")) return true;
  return absl::ConsumeSuffix(&a, "y") && b == absl::StrCat(a, "ies");
}

// How well an object's word fits a label, both normalized; 0: not at all.
int Fit(absl::string_view object, absl::string_view label) {
  if (object == label) return 3;
  if (SameButForNumber(object, label)) return 2;
  // The last words of a phrase name the thing; Chinese has no blanks between words.
  if (absl::EndsWith(object, label) &&
      (HasCjk(label) || object[object.size() - label.size() - 1] == ' ')) {
    return 1;
  }
  return 0;
}

std::string LastWords(absl::Span<const ChatTurn> conversation) {
  std::string out;
  for (const TurnPart& part : conversation.back().parts) out += part.text;
  return out;
}

void PlanLabels(absl::Span<const std::string> labels, const PromptStyle& style, PromptPlan& out) {
  out.per_label = style.label_passes == LabelPasses::kPerLabel;
  if (!out.per_label) {
    out.prompts = {LabelsPrompt(style.wrapper, labels)};
  } else {
    for (const std::string& label : labels) {
      out.prompts.push_back(LabelsPrompt(style.wrapper, absl::MakeConstSpan(&label, 1)));
    }
  }
  out.chinese = std::any_of(labels.begin(), labels.end(),
                            [](const std::string& label) { return HasCjk(label); });
}

}  // namespace

AnswerForm FormAskedFor(absl::string_view prompt) {
  const std::string lower = absl::AsciiStrToLower(prompt);
  if (BeginsWithPointing(lower) || MentionsAny(lower, {"point_2d", "<point"})) {
    return AnswerForm::kPoints;
  }
  if (MentionsAny(lower, {"bbox", "box", "coordinate", "locate", "detect", "outline", "坐标",
                          "座標", "框", "定位", "检测"})) {
    return AnswerForm::kBoxes;
  }
  return AnswerForm::kText;
}

std::string WrapPointPrompt(PromptWrapper wrapper, absl::string_view prompt) {
  if (wrapper == PromptWrapper::kNone || SaysHowToPoint(absl::AsciiStrToLower(prompt))) {
    return std::string(prompt);
  }
  const absl::string_view phrase = WithoutEndMarks(prompt);
  return HasCjk(prompt)
             ? absl::StrCat(
                   phrase,
                   "，以JSON格式输出其point坐标，如{\"point_2d\": [x, y], \"label\": \"…\"}")
             : absl::StrCat(phrase,
                            ", output its point coordinates using JSON format: {\"point_2d\": [x, "
                            "y], \"label\": \"…\"}");
}

absl::Status CheckLabels(absl::Span<const std::string> labels) {
  if (labels.empty() || labels.size() > kMaxLabels) {
    return errors::ParameterInvalid("labels",
                                    absl::StrCat("a list of 1 to ", kMaxLabels, " texts"));
  }
  std::vector<std::string> seen;
  for (const std::string& label : labels) {
    const bool plain = std::none_of(label.begin(), label.end(), [](char c) {
      return absl::ascii_iscntrl(static_cast<unsigned char>(c)) || c == ',' || c == '"';
    });
    if (label.size() > kMaxLabelBytes || !plain || MentionsAny(label, {"，", "、"}) ||
        !CheckPrompt(label, kMaxLabelBytes).ok()) {
      return errors::ParameterInvalid(
          "labels", absl::StrCat("texts of 1 to ", kMaxLabelBytes,
                                 " bytes of UTF-8 without commas, quotes and control characters"));
    }
    seen.push_back(Normalized(label));
  }
  std::sort(seen.begin(), seen.end());
  if (std::adjacent_find(seen.begin(), seen.end()) != seen.end()) {
    return errors::ParameterInvalid("labels", "a list that names each class once");
  }
  return absl::OkStatus();
}

std::string LabelsPrompt(PromptWrapper wrapper, absl::Span<const std::string> labels) {
  const bool chinese = std::any_of(labels.begin(), labels.end(),
                                   [](const std::string& label) { return HasCjk(label); });
  const std::string list = absl::StrJoin(labels, chinese ? "、" : ", ");
  if (wrapper == PromptWrapper::kNone) {
    if (chinese) return absl::StrCat("找出所有", list);
    // Names of classes are singular as a rule.
    return absl::StrCat(labels.size() == 1 ? "find every " : "all ", list);
  }
  return chinese ? absl::StrCat("检测图中所有的", list, "，以JSON格式输出每个目标的bbox坐标和label")
                 : absl::StrCat("Detect all objects of these classes: ", list,
                                ". Output their bbox coordinates and labels using JSON format.");
}

absl::StatusOr<PromptPlan> PlanPrompt(const GroundInput& input, const PromptStyle& style,
                                      int64_t max_prompt_bytes) {
  PromptPlan out;
  out.grammar = input.grammar;
  if (!input.labels.empty()) {
    const bool has_words = !input.conversation.empty() && !LastWords(input.conversation).empty();
    if (!input.prompt.empty() || has_words) {
      return errors::ParameterInvalid("labels", "absent when there is a prompt");
    }
    CHORD_RETURN_IF_ERROR(CheckLabels(input.labels));
    PlanLabels(input.labels, style, out);
    return out;
  }
  if (!input.conversation.empty()) {
    out.prompts = {LastWords(input.conversation)};
    out.chinese = HasCjk(out.prompts.front());
    return out;
  }
  CHORD_RETURN_IF_ERROR(CheckPrompt(input.prompt, max_prompt_bytes));
  out.chinese = HasCjk(input.prompt);
  if (FormAskedFor(input.prompt) == AnswerForm::kPoints) {
    out.prompts = {WrapPointPrompt(style.wrapper, input.prompt)};
    out.grammar = false;  // of boxes
  } else {
    out.prompts = {WrapPrompt(style.wrapper, input.prompt)};
  }
  return out;
}

std::vector<LabelMatch> MatchLabels(absl::Span<const std::string> labels,
                                    absl::Span<const GroundObject> objects) {
  std::vector<LabelMatch> out;
  std::vector<std::string> normalized;
  for (const std::string& label : labels) {
    out.push_back({.label = label});
    normalized.push_back(Normalized(label));
  }
  for (size_t i = 0; i < objects.size(); ++i) {
    const std::string word = Normalized(objects[i].label);
    if (word.empty()) continue;
    int best_fit = 0;
    size_t best = 0;
    for (size_t k = 0; k < normalized.size(); ++k) {
      const int fit = Fit(word, normalized[k]);
      const bool longer = normalized[k].size() > normalized[best].size();
      if (fit > best_fit || (fit == best_fit && fit > 0 && longer)) {
        best_fit = fit;
        best = k;
      }
    }
    if (best_fit == 0) continue;
    LabelMatch& match = out[best];
    match.objects.push_back(static_cast<int>(i));
    match.confidence = std::min(match.confidence.value_or(1), objects[i].confidence);
  }
  return out;
}

}  // namespace chord::gateway
