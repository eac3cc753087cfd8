// The checks that every LanguageModel makes of a step before it touches anything.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/engine/language_model.h"

namespace chord::engine {

struct StepLimits {
  int64_t sequence_tokens = 0;
  int64_t kv_pages = 0;
  int64_t vocab_size = 0;
};

// OK when the chunks agree in their lengths, stay inside the limits, and no page that one of them
// writes appears anywhere else in the step. Keeps its memory from call to call; not thread-safe.
class StepChecker {
 public:
  explicit StepChecker(const StepLimits& limits) : limits_(limits) {}
  absl::Status Check(absl::Span<const LanguageModel::Chunk> chunks);

 private:
  absl::Status CheckChunk(const LanguageModel::Chunk& chunk) const;
  absl::Status CheckWrites(absl::Span<const LanguageModel::Chunk> chunks);

  const StepLimits limits_;
  std::vector<bool> written_;  // by page
};

// Checks the arguments of LanguageModel::CopyPage.
absl::Status CheckCopyPage(int32_t from, int32_t to, int rows, int64_t kv_pages);

}  // namespace chord::engine
