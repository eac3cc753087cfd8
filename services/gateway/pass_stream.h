// Joins what the passes of one request tell while they are decoded side by side into one stream, in
// the order of the passes: what a later one tells waits until the earlier ones have ended. The
// texts of two passes are separated by a line break.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "services/gateway/ground.h"

namespace chord::gateway {

// Thread-safe. The functions are called one at a time, and must not call the stream.
class PassStream {
 public:
  using OnText = std::function<void(absl::string_view)>;
  using OnObject = std::function<void(const GroundObject&)>;
  // Either function may be null.
  PassStream(size_t passes, OnText on_text, OnObject on_object)
      : on_text_(std::move(on_text)), on_object_(std::move(on_object)), passes_(passes) {}

  bool wants_text() const { return on_text_ != nullptr; }
  bool wants_objects() const { return on_object_ != nullptr; }

  void Text(size_t pass, absl::string_view text);
  void Object(size_t pass, const GroundObject& object);
  // Nothing more comes of that pass.
  void End(size_t pass);

 private:
  struct Pass {
    std::string text;  // that waits
    std::deque<GroundObject> objects;
    bool ended = false;
  };
  void Flush() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const OnText on_text_;
  const OnObject on_object_;
  absl::Mutex mu_;
  std::vector<Pass> passes_ ABSL_GUARDED_BY(mu_);
  size_t current_ ABSL_GUARDED_BY(mu_) = 0;  // the first that has not ended
};

}  // namespace chord::gateway
