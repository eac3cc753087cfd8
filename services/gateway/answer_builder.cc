#include "services/gateway/answer_builder.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "common/grounding/answer_parser.h"

namespace chord::gateway {
namespace {

std::string Advice(bool found, bool chinese) {
  if (found) {
    return chinese
               ? "请用颜色、大小或位置说得更具体，例如“左边的红色杯子”；如果要找多个，请写“所有…”。"
               : "Say more exactly which one you mean: its colour, size or place (\"the red cup "
                 "on the left\"). For several, ask for \"all …\".";
  }
  return chinese ? "如果它在图中，请换一个更常用的名称，或补充颜色、大小和位置再问一次。"
                 : "If it is in the image, ask again with a more common name and its colour, size "
                   "or place.";
}

std::string TruncationAdvice(bool found, bool chinese) {
  if (chinese) {
    return found
               ? "回答被截断：已达到 max_new_tokens，可能还有其他目标。请增大 max_new_tokens "
                 "再问一次。"
               : "回答在给出第一个框之前被截断：已达到 max_new_tokens。这不表示目标不存在，请增大 "
                 "max_new_tokens 再问一次。";
  }
  return found
             ? "The answer was cut at max_new_tokens: there may be more objects. Ask again with a "
               "larger max_new_tokens."
             : "The answer was cut at max_new_tokens before its first box, which does not mean "
               "that "
               "the thing is absent. Ask again with a larger max_new_tokens.";
}

// Fills objects and text. Returns the evidence of the objects that lie in the image.
grounding::Evidence FillObjects(const grounding::ParsedAnswer& parsed,
                                const grounding::Evidence& all, const image::FramePlan& frame,
                                const Thresholds& thresholds, const grounding::ConfidenceMap* map,
                                absl::string_view text, GroundResult& out) {
  grounding::Evidence kept = all;
  kept.boxes.clear();
  kept.raw_boxes.clear();
  std::vector<std::optional<image::Box>> boxes;
  boxes.reserve(parsed.objects.size());
  out.objects.clear();
  for (size_t i = 0; i < parsed.objects.size(); ++i) {
    const grounding::RawObject& raw = parsed.objects[i];
    boxes.push_back(image::ToUpright(raw.box, frame));
    if (!boxes.back()) continue;
    kept.boxes.push_back(all.boxes[i]);
    kept.raw_boxes.push_back(all.raw_boxes[i]);
    GroundObject object;
    object.label = raw.label;
    object.box = *boxes.back();
    object.confidence =
        map != nullptr ? grounding::Probability(map->box, all.boxes[i]) : all.raw_boxes[i];
    object.needs_review = object.confidence < thresholds.review;
    out.objects.push_back(std::move(object));
  }
  out.text = grounding::RenderText(text, parsed, boxes);
  return kept;
}

// Fills the confidence of an answer with objects. Returns the raw score.
double FillPresence(const grounding::Evidence& all, const grounding::Evidence& kept,
                    const grounding::ConfidenceMap* map, GroundResult& out) {
  std::vector<double> confidences;
  for (const GroundObject& object : out.objects) confidences.push_back(object.confidence);
  out.confidence = *std::min_element(confidences.begin(), confidences.end());
  out.calibrated = map != nullptr;
  if (map != nullptr) {
    const auto evidence = grounding::MakeAnswerEvidence(confidences, all.ends, all.cut);
    out.confidence = std::min(*out.confidence, grounding::Probability(map->answer, evidence));
  }
  return *std::min_element(kept.raw_boxes.begin(), kept.raw_boxes.end());
}

// Fills the confidence of an answer without objects. Returns the raw score.
double FillAbsence(const ModelAnswer& answer, const grounding::ParsedAnswer& parsed,
                   const grounding::Evidence& all, const grounding::ConfidenceMap* map,
                   GroundResult& out) {
  out.calibrated = map != nullptr && !answer.cut;
  if (answer.cut) {  // neither a box nor an absence was reached
    out.confidence.reset();
    return 0;
  }
  // Boxes that lie nowhere are no evidence of absence, and a text without a list is none either.
  const bool says_absent = parsed.objects.empty() && all.raw_absent > 0;
  const double raw = says_absent ? all.raw_absent : 0;
  out.confidence =
      says_absent && map != nullptr ? grounding::Probability(map->absent, all.absent) : raw;
  return raw;
}

}  // namespace

std::string AdviceOn(const GroundResult& result, bool found, bool chinese,
                     const Thresholds& thresholds) {
  if (result.truncated) return TruncationAdvice(found, chinese);
  const bool doubtful = result.confidence && *result.confidence < thresholds.advice;
  return doubtful ? Advice(found, chinese) : "";
}

void FillAnswer(const ModelAnswer& answer, const image::FramePlan& frame, bool chinese,
                const Thresholds& thresholds, const grounding::ConfidenceMap* map,
                GroundResult& out) {
  const grounding::ParsedAnswer parsed = grounding::ParseAnswer(answer.text);
  const grounding::Evidence all = grounding::GatherEvidence(answer.text, parsed, answer);
  if (!all.usable) map = nullptr;
  grounding::Evidence kept = FillObjects(parsed, all, frame, thresholds, map, answer.text, out);
  const double raw = out.objects.empty() ? FillAbsence(answer, parsed, all, map, out)
                                         : FillPresence(all, kept, map, out);
  out.truncated = answer.truncated;
  out.advice = AdviceOn(out, !out.objects.empty(), chinese, thresholds);
  out.evidence.reset();
  if (all.usable) out.evidence = GroundEvidence{std::move(kept), raw, ""};
}

}  // namespace chord::gateway
