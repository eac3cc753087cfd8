#include "services/gateway/object_stream.h"

#include "common/grounding/answer_parser.h"

namespace chord::gateway {
namespace {
// Words are parsed anew when an object may have ended; beyond this the whole answer has to do.
constexpr size_t kMaxText = 64 << 10;
}  // namespace

std::vector<GroundObject> ObjectStream::Add(absl::string_view words) {
  std::vector<GroundObject> out;
  if (text_.size() + words.size() > kMaxText) return out;
  text_.append(words.data(), words.size());
  if (words.find_first_of("}>") == absl::string_view::npos) return out;
  const grounding::ParsedAnswer parsed = grounding::ParseAnswer(text_);
  for (size_t i = seen_; i < parsed.objects.size(); ++i) {
    const grounding::RawObject& raw = parsed.objects[i];
    const bool followed = i + 1 < parsed.objects.size();
    const bool closed = raw.end > 0 && raw.end <= text_.size() &&
                        (text_[raw.end - 1] == '}' || text_[raw.end - 1] == '>');
    if (!followed && !closed) break;
    seen_ = i + 1;
    const auto box = image::ToUpright(raw.box, frame_);
    if (!box) continue;
    ++told_;
    GroundObject object;
    object.label = raw.label;
    object.box = *box;
    out.push_back(std::move(object));
  }
  return out;
}

}  // namespace chord::gateway
