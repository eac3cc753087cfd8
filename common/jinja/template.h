// Chat templates: Jinja as transformers renders it (an immutable sandbox with trim_blocks,
// lstrip_blocks, break and continue, {% generation %}, tojson without HTML escapes, raise_exception
// and strftime_now), evaluated and bounded. What is not implemented is refused when a template is
// parsed, by its name and line. No template reads a file, calls out, or runs without end.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/jinja/text.h"
#include "common/jinja/value.h"

namespace chord::jinja {

struct RenderOptions {
  // Time and memory of one rendering: a step is a node of the tree evaluated, an item of a list
  // made, or 32 bytes of text made.
  int64_t max_steps = 2'000'000;
  absl::Time now = absl::Now();  // of strftime_now, in the local time zone
};

// Immutable, thread-safe, cheap to copy.
class Template {
 public:
  // Linear in the source. InvalidArgument: not UTF-8, not Jinja, or a construct that is not
  // supported; the message begins with the line.
  static absl::StatusOr<Template> Parse(absl::string_view source);

  // `variables` are the global names. InvalidArgument: the template does with them what Python
  // refuses, or takes too many steps. FailedPrecondition: raise_exception, with its message.
  absl::StatusOr<Text> Render(const std::vector<std::pair<std::string, Value>>& variables,
                              const RenderOptions& options = {}) const;

 private:
  struct Tree;
  explicit Template(std::shared_ptr<const Tree> tree) : tree_(std::move(tree)) {}
  std::shared_ptr<const Tree> tree_;
};

}  // namespace chord::jinja
