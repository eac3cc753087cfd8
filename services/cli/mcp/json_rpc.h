// JSON-RPC 2.0 over lines of text (https://www.jsonrpc.org/specification), as the stdio transport
// of the Model Context Protocol uses it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord::cli::mcp {

using Json = nlohmann::ordered_json;

enum class RpcError {
  kParse = -32700,
  kInvalidRequest = -32600,
  kMethodNotFound = -32601,
  kInvalidParams = -32602,
  kNotInitialized = -32002,
  kBusy = -32000,
};

// `id` is that of the request, or null when it is not known.
Json ErrorMessage(const Json& id, RpcError code, absl::string_view text);
Json ResultMessage(const Json& id, Json result);
// On one line, without a line end; ill-formed UTF-8 is replaced.
std::string ToLine(const Json& message);

// A message from outside: nesting, values and strings are bounded before memory is taken for them.
// nullopt when the text is not JSON or exceeds a bound.
std::optional<Json> ParseMessage(absl::string_view line, int64_t max_string_bytes);

// Lines of a file descriptor. Not thread-safe.
class LineReader {
 public:
  // Does not own `fd`. Holds at most `max_bytes` and a buffer.
  LineReader(int fd, size_t max_bytes) : fd_(fd), max_bytes_(max_bytes) {}

  // The next line without its end; nullopt at the end of the input. Blocks. RESOURCE_EXHAUSTED for
  // a line longer than the limit, which is skipped: the next call returns the line after it.
  absl::StatusOr<std::optional<std::string>> Next();

 private:
  const int fd_;
  const size_t max_bytes_;
  std::string held_;    // read, not returned yet
  size_t scanned_ = 0;  // of held_, without a line end
  bool skipping_ = false;
  bool ended_ = false;
};

}  // namespace chord::cli::mcp
