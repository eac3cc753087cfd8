// The files of the web page, compiled in from web/ (see web/embed.cmake).
#pragma once

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace chord::gateway {

struct WebAsset {
  absl::string_view path;  // below the page, with a leading slash: "/app.js"
  absl::string_view etag;  // strong entity tag with its quotes, made from the content
  absl::string_view content;
};

// All of them, sorted by path. Static storage.
absl::Span<const WebAsset> EmbeddedAssets();

// The media type of a file, by its extension; "application/octet-stream" when it is not known.
absl::string_view ContentTypeOf(absl::string_view path);

// Whether an If-None-Match value names `etag` (RFC 9110, 13.1.2: weak comparison, "*" names all).
bool MatchesEntityTag(absl::string_view if_none_match, absl::string_view etag);

}  // namespace chord::gateway
