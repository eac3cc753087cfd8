#include "services/cli/mcp/json_rpc.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

#include "common/json/strict_json.h"

namespace chord::cli::mcp {

Json ErrorMessage(const Json& id, RpcError code, absl::string_view text) {
  return {{"jsonrpc", "2.0"},
          {"id", id},
          {"error", {{"code", static_cast<int>(code)}, {"message", std::string(text)}}}};
}

Json ResultMessage(const Json& id, Json result) {
  return {{"jsonrpc", "2.0"}, {"id", id}, {"result", std::move(result)}};
}

std::string ToLine(const Json& message) {
  return message.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

std::optional<Json> ParseMessage(absl::string_view line, int64_t max_string_bytes) {
  const JsonLimits bounds{.depth = 32, .values = 10'000, .string_bytes = max_string_bytes};
  if (!CheckJsonBounds(line, bounds).ok()) return std::nullopt;
  Json out = Json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  if (out.is_discarded()) return std::nullopt;
  return out;
}

absl::StatusOr<std::optional<std::string>> LineReader::Next() {
  constexpr size_t kReadBytes = 64 << 10;
  while (true) {
    const size_t end = held_.find('\n', scanned_);
    if (end != std::string::npos) {
      std::string line = held_.substr(0, end);
      held_.erase(0, end + 1);
      scanned_ = 0;
      if (std::exchange(skipping_, false)) continue;
      if (!line.empty() && line.back() == '\r') line.pop_back();
      return line;
    }
    scanned_ = held_.size();
    const bool too_long = held_.size() > max_bytes_;
    if (too_long || skipping_) {
      held_ = std::string();  // gives the memory back
      scanned_ = 0;
    }
    if (too_long && !std::exchange(skipping_, true)) {
      return absl::ResourceExhaustedError("The line is longer than the limit.");
    }
    if (ended_) {
      if (held_.empty()) return std::nullopt;
      scanned_ = 0;
      return std::exchange(held_, std::string());
    }
    const size_t before = held_.size();
    held_.resize(before + kReadBytes);
    const ssize_t got = read(fd_, held_.data() + before, kReadBytes);
    held_.resize(before + (got > 0 ? static_cast<size_t>(got) : 0));
    if (got < 0 && errno != EINTR) return absl::UnavailableError("The input cannot be read.");
    ended_ = got == 0;
  }
}

}  // namespace chord::cli::mcp
