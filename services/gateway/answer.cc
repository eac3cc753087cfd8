#include "services/gateway/answer.h"

#include <algorithm>
#include <cmath>

#include "common/grounding/answer.h"

namespace chord::gateway {
namespace {

double Probability(double p) { return std::isfinite(p) ? std::clamp(p, 0.0, 1.0) : 0.0; }

// Ends must ascend inside the text and every probability be one, or none of them counts.
bool Consistent(const ModelAnswer& said) {
  if (said.token_ends.size() != said.log_probabilities.size()) return false;
  int64_t last = 0;
  for (const int64_t end : said.token_ends) {
    if (end < last || end > static_cast<int64_t>(said.text.size())) return false;
    last = end;
  }
  return std::all_of(said.log_probabilities.begin(), said.log_probabilities.end(),
                     [](double p) { return std::isfinite(p) && p <= 1e-6; });
}

double MeanProbability(const std::vector<double>& log_probabilities) {
  if (log_probabilities.empty()) return 0;
  double sum = 0;
  for (const double p : log_probabilities) sum += p;
  return Probability(std::exp(sum / static_cast<double>(log_probabilities.size())));
}

std::string Advice(bool found, bool chinese) {
  if (found) {
    return chinese
               ? "请用颜色、大小或位置说得更具体，例如“左边的红色杯子”；如果要找多个，请写“所有…”。"
               : "Say more exactly which one you mean: its colour, size or place (\"the red cup "
                 "on the left\"). For several, ask for \"all …\".";
  }
  return chinese
             ? "如果它在图中，请换一个更常用的名称，或补充颜色、大小和位置再问一次。"
             : "If it is in the picture, ask again with a more common name and its colour, size "
               "or place.";
}

}  // namespace

void FillAnswer(const ModelAnswer& said, const image::FramePlan& frame, bool chinese,
                const Thresholds& thresholds, GroundResult& out) {
  const grounding::ParsedAnswer parsed = grounding::ParseAnswer(said.text);
  std::vector<size_t> ends;
  std::vector<double> log_probabilities;
  if (Consistent(said)) {
    ends.assign(said.token_ends.begin(), said.token_ends.end());
    log_probabilities = said.log_probabilities;
  }

  std::vector<std::optional<image::Box>> boxes;
  boxes.reserve(parsed.objects.size());
  out.objects.clear();
  for (const grounding::RawObject& raw : parsed.objects) {
    boxes.push_back(image::ToUpright(raw.box, frame));
    if (!boxes.back()) continue;
    GroundObject object;
    object.label = raw.label;
    object.box = *boxes.back();
    object.confidence =
        ends.empty() ? 0 : Probability(grounding::ObjectProbability(raw, ends, log_probabilities));
    object.needs_review = object.confidence < thresholds.review;
    out.objects.push_back(std::move(object));
  }
  out.text = grounding::RenderText(said.text, parsed, boxes);

  if (!out.objects.empty()) {
    out.confidence = 1;
    for (const GroundObject& object : out.objects) {
      out.confidence = std::min(out.confidence, object.confidence);
    }
  } else if (!parsed.objects.empty()) {
    out.confidence = 0;  // boxes that lie nowhere are no evidence of absence
  } else if (said.log_probability_empty) {
    out.confidence = Probability(std::exp(*said.log_probability_empty));
  } else {
    out.confidence = parsed.explicit_empty ? MeanProbability(log_probabilities) : 0;
  }
  out.advice = out.confidence < thresholds.advice ? Advice(!out.objects.empty(), chinese) : "";
}

}  // namespace chord::gateway
