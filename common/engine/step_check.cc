#include "common/engine/step_check.h"

#include "common/base/errors.h"
#include "common/base/status_macros.h"

namespace chord::engine {
namespace {

using Chunk = LanguageModel::Chunk;

int64_t PagesOf(int64_t rows) { return (rows + kKvPageTokens - 1) / kKvPageTokens; }

int64_t EndRow(const Chunk& chunk) { return chunk.start + static_cast<int64_t>(chunk.ids.size()); }

}  // namespace

absl::Status StepChecker::Check(absl::Span<const Chunk> chunks) {
  for (const Chunk& chunk : chunks) CHORD_RETURN_IF_ERROR(CheckChunk(chunk));
  return CheckWrites(chunks);
}

absl::Status StepChecker::CheckChunk(const Chunk& chunk) const {
  const auto n = static_cast<int64_t>(chunk.ids.size());
  const int64_t limit = limits_.sequence_tokens;
  if (n < 1 || chunk.start < 0 || static_cast<int64_t>(chunk.positions.size()) != 3 * n ||
      (!chunk.image_rows.empty() && static_cast<int64_t>(chunk.image_rows.size()) != n)) {
    return absl::InvalidArgumentError("a chunk's spans disagree in length");
  }
  if (chunk.logits < 0 || chunk.logits > n) {
    return absl::InvalidArgumentError("logits of more ids than the chunk has");
  }
  if (EndRow(chunk) > limit) return errors::ContextLimit(EndRow(chunk), limit);
  const int64_t pages = PagesOf(EndRow(chunk));
  if (static_cast<int64_t>(chunk.pages.size()) < pages) {
    return absl::InvalidArgumentError("a chunk has too few pages");
  }
  for (int32_t page : chunk.pages.subspan(0, pages)) {
    if (page < 0 || page >= limits_.kv_pages) {
      return absl::InvalidArgumentError("a page id is out of range");
    }
  }
  for (int32_t position : chunk.positions) {
    if (position < 0 || position >= limit) {
      return absl::InvalidArgumentError("a position lies outside the sequence");
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    const int32_t row = chunk.image_rows.empty() ? -1 : chunk.image_rows[i];
    if (row < -1 ||
        (row >= 0 && (chunk.embeddings == nullptr || row >= chunk.embeddings->rows()))) {
      return absl::InvalidArgumentError("an image row lies outside the embeddings");
    }
    if (row < 0 && (chunk.ids[i] < 0 || chunk.ids[i] >= limits_.vocab_size)) {
      return absl::InvalidArgumentError("a token id lies outside the vocabulary");
    }
  }
  return absl::OkStatus();
}

// Another chunk would read or overwrite what is only half written. Page ids are in range by now.
absl::Status StepChecker::CheckWrites(absl::Span<const Chunk> chunks) {
  written_.assign(limits_.kv_pages, false);
  for (const Chunk& chunk : chunks) {
    for (int64_t i = chunk.start / kKvPageTokens; i < PagesOf(EndRow(chunk)); ++i) {
      if (written_[chunk.pages[i]]) {
        return absl::InvalidArgumentError("two chunks of one step write the same page");
      }
      written_[chunk.pages[i]] = true;
    }
  }
  for (const Chunk& chunk : chunks) {
    for (int32_t page : chunk.pages.subspan(0, chunk.start / kKvPageTokens)) {
      if (written_[page]) {
        return absl::InvalidArgumentError("a chunk reads a page that this step writes");
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckCopyPage(int32_t from, int32_t to, int rows, int64_t kv_pages) {
  if (from < 0 || from >= kv_pages || to < 0 || to >= kv_pages) {
    return absl::InvalidArgumentError("a page id is out of range");
  }
  if (rows < 0 || rows > kKvPageTokens) {
    return absl::InvalidArgumentError("a page has no such number of rows");
  }
  return absl::OkStatus();
}

}  // namespace chord::engine
