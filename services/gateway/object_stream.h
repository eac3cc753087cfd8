// Objects of an answer that is still being written: each is told once it is complete. Pure.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/image/frame_plan.h"
#include "services/gateway/ground.h"

namespace chord::gateway {

// Thread-compatible.
class ObjectStream {
 public:
  explicit ObjectStream(const image::FramePlan& frame) : frame_(frame) {}

  // The objects that are complete with these words and were not told before, in order. They have
  // no confidence yet: that is known when the answer is. The order is that of the whole answer's
  // objects, so what is told last by the answer is what comes after told().
  std::vector<GroundObject> Add(absl::string_view words);
  size_t told() const { return told_; }

 private:
  const image::FramePlan frame_;
  std::string text_;
  size_t seen_ = 0;  // of the parser's objects, inside the image or not
  size_t told_ = 0;
};

}  // namespace chord::gateway
