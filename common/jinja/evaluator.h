// Walks the tree of a template.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/jinja/ast.h"
#include "common/jinja/template.h"

namespace chord::jinja {

absl::StatusOr<Text> Evaluate(const Body& body,
                              const std::vector<std::pair<std::string, Value>>& variables,
                              const RenderOptions& options);

}  // namespace chord::jinja
