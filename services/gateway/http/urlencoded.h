// application/x-www-form-urlencoded (WHATWG URL, section 5). Pure.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord::gateway {

// Names and values, decoded, in their order. A '%' that no two hex digits follow stands for itself.
// BODY_MALFORMED when there are more than `max_fields`.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseUrlencoded(
    absl::string_view body, size_t max_fields);

}  // namespace chord::gateway
