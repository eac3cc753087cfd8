// Any text as a model's answer: ranges lie inside the text and in order, boxes are finite, and the
// rendering with all boxes taken away holds none. Evidence is finite whatever numbers come with it.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "common/grounding/answer_parser.h"
#include "common/grounding/confidence.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

// The text's own bytes as the numbers that a worker might send.
chord::grounding::TokenRecord Record(absl::string_view text) {
  chord::grounding::TokenRecord out;
  const auto number = [&](size_t at) {
    double v = 0;
    std::memcpy(&v, text.data() + at, sizeof(v));
    return v;
  };
  for (size_t at = 0; at + sizeof(double) <= text.size(); at += sizeof(double)) {
    const double v = number(at);
    out.token_ends.push_back(static_cast<int64_t>(at + sizeof(double)));
    out.log_probabilities.push_back(v <= 0 ? v : -1);  // so that some texts pass as usable
    out.forced.push_back(text[at] % 2 == 0);
    out.choices.push_back({static_cast<signed char>(text[at]), v, -v});
    out.log_probability_empty = v;
  }
  return out;
}

void CheckEvidence(absl::string_view text, const chord::grounding::ParsedAnswer& parsed) {
  namespace grounding = chord::grounding;
  const grounding::Evidence evidence = grounding::GatherEvidence(text, parsed, Record(text));
  Require(evidence.boxes.size() == parsed.objects.size());
  Require(evidence.raw_boxes.size() == parsed.objects.size());
  for (const auto& box : evidence.boxes) {
    for (const double v : box) Require(std::abs(v) <= grounding::kBound);
  }
  for (const double v : evidence.absent) Require(std::abs(v) <= grounding::kBound);
  for (const double v : evidence.raw_boxes) Require(v >= 0 && v <= 1);
  Require(evidence.raw_absent >= 0 && evidence.raw_absent <= 1);
  Require(std::abs(evidence.ends) <= grounding::kBound);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace grounding = chord::grounding;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const grounding::ParsedAnswer parsed = grounding::ParseAnswer(text);
  Require(!parsed.explicit_empty || parsed.objects.empty());
  size_t last = 0;
  for (const grounding::RawObject& o : parsed.objects) {
    Require(last <= o.begin && o.begin <= o.end && o.end <= size);
    Require(o.coords_begin < o.coords_end && o.coords_end <= o.end);
    for (const double v : {o.box.x1, o.box.y1, o.box.x2, o.box.y2}) Require(std::isfinite(v));
    last = o.begin;
  }
  CheckEvidence(text, parsed);
  std::vector<std::optional<chord::image::Box>> boxes(parsed.objects.size());
  Require(grounding::RenderText(text, parsed, boxes).size() <= size + 2 * parsed.objects.size());
  for (auto& box : boxes) box = chord::image::Box{1, 2, 3, 4};
  grounding::RenderText(text, parsed, boxes);
  return 0;
}
