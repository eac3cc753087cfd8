// The web page, compiled in from web/ (see web/embed.cmake).
#pragma once

#include "absl/strings/string_view.h"

namespace chord::gateway::web {

extern const absl::string_view kIndexHtml;
extern const absl::string_view kAppJs;
extern const absl::string_view kStyleCss;

}  // namespace chord::gateway::web
