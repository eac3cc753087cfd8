// Keeping an image on a server for many prompts, in chunks (Images.Upload).
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "chord/v1/images.grpc.pb.h"

namespace chord::cli {

// The image's image_id. Blocks until `deadline` at most; errors are the server's own.
absl::StatusOr<std::string> UploadImage(v1::Images::Stub& images, absl::string_view bytes,
                                        absl::Time deadline);

}  // namespace chord::cli
