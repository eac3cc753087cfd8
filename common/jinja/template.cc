#include "common/jinja/template.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/container/flat_hash_map.h"
#include "common/base/status_macros.h"
#include "common/jinja/evaluator.h"
#include "common/jinja/lexer.h"
#include "common/jinja/parser.h"
#include "common/text/utf8.h"

namespace chord::jinja {

struct Template::Tree {
  Body body;
};

absl::StatusOr<Template> Template::Parse(absl::string_view source) {
  if (!text::IsUtf8(source)) {
    return absl::InvalidArgumentError("line 1: the template is not UTF-8");
  }
  auto tree = std::make_shared<Tree>();
  CHORD_ASSIGN_OR_RETURN(tree->body, ParseTemplate(NormalizeSource(source)));
  return Template(std::move(tree));
}

absl::StatusOr<Text> Template::Render(const std::vector<std::pair<std::string, Value>>& variables,
                                      const RenderOptions& options) const {
  return Evaluate(tree_->body, variables, options);
}

}  // namespace chord::jinja
