// The tools that `chord mcp` offers: locate, annotate and zoom.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "services/cli/client.h"
#include "services/cli/mcp/image_source.h"
#include "services/cli/mcp/json_rpc.h"

namespace chord::cli::mcp {

// What tools/list returns: names, descriptions for a model, JSON schemas of arguments and results.
Json ToolList();

// Thread-safe when `client` is.
class Tools {
 public:
  // `client` outlives this. `timeout`: of the request that a call sends.
  Tools(Client& client, ImageSource images, absl::Duration timeout)
      : client_(client), images_(std::move(images)), timeout_(timeout) {}

  static bool Has(const std::string& name);

  // A CallToolResult. What the caller can put right, and what the server refuses, is a result with
  // isError and a text for the model. `name` is one of the tools.
  Json Call(const std::string& name, const Json& arguments) const;

 private:
  absl::StatusOr<Json> Locate(const Json& arguments) const;
  absl::StatusOr<Json> Annotate(const Json& arguments) const;
  absl::StatusOr<Json> Zoom(const Json& arguments) const;
  absl::StatusOr<std::string> ReadImage(const Json& arguments) const;
  absl::StatusOr<v1::GroundResponse> Ground(const std::string& image,
                                            const std::string& prompt) const;

  Client& client_;
  const ImageSource images_;
  const absl::Duration timeout_;
};

}  // namespace chord::cli::mcp
