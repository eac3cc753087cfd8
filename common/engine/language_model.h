// The decoder of Qwen2.5-VL (spec §4) as an engine: KV memory fixed at load, explicit positions,
// and one Step over any mix of prefill chunks and single tokens of many sequences, which a
// scheduler can batch and, later, a CUDA graph can capture.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/engine/device.h"
#include "common/model/checkpoint.h"
#include "common/model/model_config.h"

namespace chord::engine {

// Image embeddings of one request on the engine's device, filled as chunks arrive.
// One writer; must outlive the steps that read it.
class EmbeddingBuffer {
 public:
  virtual ~EmbeddingBuffer() = default;
  // Copies raw rows (dtype of Create) to byte offset `offset` of the source layout.
  // EMBEDDING_NOT_FINITE / EMBEDDING_MISMATCH leave the buffer unusable; only drop it then.
  virtual absl::Status Write(int64_t offset, absl::Span<const std::byte> data) = 0;
  virtual int64_t rows() const = 0;
};

class LanguageModel {
 public:
  struct Options {
    Device device;
    model::DType dtype = model::DType::kFloat32;
    int max_sequences = 4;           // KV slots
    int max_sequence_tokens = 4096;  // rows of one slot: prompt + answer
  };
  static absl::StatusOr<std::unique_ptr<LanguageModel>> Load(
      std::shared_ptr<const model::Checkpoint> checkpoint, const model::ModelConfig& config,
      const Options& options);
  virtual ~LanguageModel() = default;

  virtual absl::StatusOr<std::unique_ptr<EmbeddingBuffer>> CreateEmbeddings(
      int64_t rows, model::DType source_dtype) = 0;

  // Consecutive tokens of one sequence.
  struct Chunk {
    int slot = 0;                         // 0..max_sequences-1; at most once in a step
    int start = 0;                        // KV rows of this slot that are already valid
    absl::Span<const int32_t> ids;        // n >= 1
    absl::Span<const int32_t> positions;  // [3, n] row major
    // Row of `embeddings` that replaces the token embedding of ids[i], or -1. Empty: all -1.
    absl::Span<const int32_t> image_rows;
    const EmbeddingBuffer* embeddings = nullptr;
    enum class Logits { kNone, kLast, kAll } logits = Logits::kLast;
  };
  // Runs all chunks in one pass and appends their KV. `logits` receives float32 rows of
  // vocab_size in chunk order (kLast: 1 row, kAll: n rows); it is resized, keep it to reuse memory.
  // Causal by index; sequences never see each other. Not thread-safe. After an error the KV rows
  // from `start` on of the slots of this step are undefined, earlier rows are intact.
  virtual absl::Status Step(absl::Span<const Chunk> chunks, std::vector<float>* logits) = 0;

  virtual int vocab_size() const = 0;
  virtual const Options& options() const = 0;
  virtual int64_t kv_bytes() const = 0;  // of all slots
};

}  // namespace chord::engine
