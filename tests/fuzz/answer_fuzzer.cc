// Any text as a model's answer: ranges lie inside the text and in order, boxes are finite, and the
// rendering with all boxes taken away holds none.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "common/grounding/answer.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
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
    grounding::ObjectProbability(o, {}, {});
  }
  std::vector<std::optional<chord::image::Box>> boxes(parsed.objects.size());
  Require(grounding::RenderText(text, parsed, boxes).size() <= size + 2 * parsed.objects.size());
  for (auto& box : boxes) box = chord::image::Box{1, 2, 3, 4};
  grounding::RenderText(text, parsed, boxes);
  return 0;
}
