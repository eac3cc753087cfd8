#include "services/gateway/pass_stream.h"

namespace chord::gateway {

void PassStream::Text(size_t pass, absl::string_view text) {
  if (!on_text_ || text.empty()) return;
  absl::MutexLock lock(&mu_);
  passes_[pass].text.append(text.data(), text.size());
  Flush();
}

void PassStream::Object(size_t pass, const GroundObject& object) {
  if (!on_object_) return;
  absl::MutexLock lock(&mu_);
  passes_[pass].objects.push_back(object);
  Flush();
}

void PassStream::End(size_t pass) {
  absl::MutexLock lock(&mu_);
  passes_[pass].ended = true;
  Flush();
}

void PassStream::Flush() {
  while (current_ < passes_.size()) {
    Pass& pass = passes_[current_];
    if (!pass.text.empty()) {
      on_text_(pass.text);
      pass.text.clear();
    }
    for (; !pass.objects.empty(); pass.objects.pop_front()) on_object_(pass.objects.front());
    if (!pass.ended) return;
    if (++current_ < passes_.size() && on_text_) on_text_("\n");
  }
}

}  // namespace chord::gateway
