// The names that templates may use. One list for the parser, which refuses the rest, and for the
// evaluator, which has an implementation for each.
#pragma once

#include "absl/strings/string_view.h"

namespace chord::jinja {

bool IsFilter(absl::string_view name);    // {{ x | name }}
bool IsTest(absl::string_view name);      // {{ x is name }}
bool IsMethod(absl::string_view name);    // {{ x.name() }}, of whatever type
bool IsFunction(absl::string_view name);  // {{ name() }}

}  // namespace chord::jinja
