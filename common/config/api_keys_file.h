// The file of API keys: names and hashes, never the keys themselves.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace chord::config {

struct ApiKeyEntry {
  std::string name;  // unique; [a-zA-Z0-9._-], at most 64 bytes: it is in every log line
  std::array<uint8_t, 32> sha256{};  // of the key's bytes
  double requests_per_second = 0;    // 0: no limit
  double burst = 1;                  // requests at once before that pace counts
  absl::Time expires = absl::InfiniteFuture();
};

// keys:
//   - {name: team-a, sha256: 9f86…, requests_per_second: 10, burst: 20, expires: 2027-06-30}
// CONFIG_INVALID names the line. An empty list lets no request through.
absl::StatusOr<std::vector<ApiKeyEntry>> ReadApiKeysFile(const std::string& path);

}  // namespace chord::config
