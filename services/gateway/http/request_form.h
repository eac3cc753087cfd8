// Bodies of HTTP requests -> prompts and images. Pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/http/message.h"

namespace chord::gateway {

struct GroundForm {
  absl::string_view image;  // points into the request, or into `decoded`
  std::string decoded;      // of a data: URL
  std::string image_id;     // instead of an image
  std::string prompt;
  std::vector<std::string> labels;  // instead of a prompt
  std::string session_id;
  std::optional<int> max_new_tokens;
  bool grammar = true;
  bool stream = false;

  // The image, wherever the form has moved to. Empty when there is an image_id.
  absl::string_view file() const { return decoded.empty() ? image : absl::string_view(decoded); }
};

// multipart/form-data (fields image or image_id, prompt or labels, session_id, max_new_tokens,
// grammar, stream), or a JSON object or application/x-www-form-urlencoded of the same names, whose
// image is a data: URL with base64. `labels` comes once a label, in JSON as a list of texts; null
// is absent. Unknown and repeated fields are refused.
absl::StatusOr<GroundForm> ParseGroundForm(const http::Request& request);

// The body of POST /api/ground/batch.
struct BatchForm {
  struct Item {
    std::string tag;  // the client's; for multipart the file's name, cut to 64 bytes
    absl::StatusOr<GroundForm> form = absl::UnknownError("");  // each with its own status
  };
  std::vector<Item> items;      // 1 – max_items
  absl::string_view one_image;  // multipart: the one image of all items, whose forms have none
  bool stream = false;
};

// JSON: {"requests": [{"tag": …, and the fields of POST /api/ground}, …], "stream": false}.
// multipart/form-data: `image` and `image_id` any number of times, `prompt` any number of times; as
// many of both, or one of either for all of the other; the other fields once, for all.
// BATCH_TOO_LONG over `max_items`; a fault of one item is that item's alone.
absl::StatusOr<BatchForm> ParseBatchForm(const http::Request& request, int max_items);

// The body of POST /api/images: multipart/form-data or flat JSON with `image` and `pin`.
struct UploadForm {
  absl::string_view image;
  std::string decoded;
  bool pin = false;
  absl::string_view file() const { return decoded.empty() ? image : absl::string_view(decoded); }
};
absl::StatusOr<UploadForm> ParseUploadForm(const http::Request& request);

// A client's own limit in seconds (field X-Request-Timeout), at least a millisecond.
absl::StatusOr<std::optional<absl::Duration>> RequestTimeout(const http::Request& request);

}  // namespace chord::gateway
