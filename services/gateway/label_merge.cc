#include "services/gateway/label_merge.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace chord::gateway {
namespace {

template <typename T>
void Append(std::vector<T>& from, std::vector<T>& to) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

void AddUsage(const GroundUsage& part, GroundUsage& out) {
  out.prompt_tokens += part.prompt_tokens;
  out.completion_tokens += part.completion_tokens;
  out.decode_steps += part.decode_steps;
  out.cached_tokens += part.cached_tokens;
  out.image = std::min(out.image, part.image);  // the least that a cache has served
}

void AddTiming(const GroundTiming& part, GroundTiming& out) {
  out.queue = std::max(out.queue, part.queue);
  out.vision = std::max(out.vision, part.vision);
  out.prefill = std::max(out.prefill, part.prefill);
  out.first_token = std::min(out.first_token, part.first_token);
  out.decode = std::max(out.decode, part.decode);
  out.total = std::max(out.total, part.total);
}

LabelMatch TakeObjects(const std::string& label, GroundResult& part, GroundResult& out) {
  LabelMatch match{.label = label, .confidence = part.confidence};
  for (size_t i = 0; i < part.objects.size(); ++i) {
    match.objects.push_back(static_cast<int>(out.objects.size() + i));
  }
  Append(part.objects, out.objects);
  return match;
}

// nullopt: not known.
std::optional<double> Confidence(const std::vector<LabelMatch>& matches, bool found) {
  std::optional<double> least;
  for (const LabelMatch& match : matches) {
    if (!match.confidence && !found) return std::nullopt;
    if (match.confidence) least = std::min(least.value_or(1), *match.confidence);
  }
  return least;
}

// A truncated answer is a matter of the request, a doubtful one of the label that is least sure.
std::string AdviceOnLabels(const GroundResult& merged, bool chinese, const Thresholds& thresholds) {
  if (merged.truncated) return AdviceOn(merged, !merged.objects.empty(), chinese, thresholds);
  const auto least = std::min_element(merged.labels.begin(), merged.labels.end(),
                                      [](const LabelMatch& a, const LabelMatch& b) {
                                        return a.confidence.value_or(1) < b.confidence.value_or(1);
                                      });
  const std::string advice = AdviceOn(merged, !least->objects.empty(), chinese, thresholds);
  return advice.empty() ? "" : absl::StrCat(least->label, chinese ? "：" : ": ", advice);
}

}  // namespace

GroundResult MergeByLabel(absl::Span<const std::string> labels, std::vector<GroundResult> parts,
                          bool chinese, const Thresholds& thresholds) {
  std::vector<LabelMatch> matches;
  GroundResult out = std::move(parts.front());
  GroundResult objects;  // those of `out` are moved here first
  matches.push_back(TakeObjects(labels[0], out, objects));
  for (size_t i = 1; i < parts.size(); ++i) {
    GroundResult& part = parts[i];
    matches.push_back(TakeObjects(labels[i], part, objects));
    Append(part.points, out.points);
    Append(part.tokens, out.tokens);
    absl::StrAppend(&out.text, "\n", part.text);
    absl::StrAppend(&out.model_text, "\n", part.model_text);
    AddUsage(part.usage, out.usage);
    AddTiming(part.timing, out.timing);
    out.calibrated = out.calibrated && part.calibrated;
    out.truncated = out.truncated || part.truncated;
    if (out.vision_worker.empty()) out.vision_worker = part.vision_worker;
  }
  out.objects = std::move(objects.objects);
  out.labels = std::move(matches);
  out.confidence = Confidence(out.labels, !out.objects.empty());
  out.evidence.reset();
  out.advice = AdviceOnLabels(out, chinese, thresholds);
  return out;
}

}  // namespace chord::gateway
