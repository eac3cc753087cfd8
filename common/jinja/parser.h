// Tokens -> tree, by the grammar of Jinja 3.1. What the evaluator does not have is refused here, by
// its name and its line, so that a template that loads holds no surprise for a later request.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/jinja/ast.h"

namespace chord::jinja {

// `source` is normalized (lexer.h). InvalidArgument says line and reason.
absl::StatusOr<Body> ParseTemplate(absl::string_view source);

}  // namespace chord::jinja
