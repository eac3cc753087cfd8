// The decoder of Qwen2.5-VL (spec §4) as an engine: KV memory fixed at load and cut into pages,
// explicit positions, and one Step over any mix of prefill chunks and decoded tokens of many
// sequences. Which sequence owns which page, and which pages several share, is the caller's affair.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/engine/attention.h"
#include "common/engine/device.h"
#include "common/engine/sampler.h"
#include "common/engine/weight_format.h"
#include "common/model/checkpoint.h"
#include "common/model/model_config.h"

namespace chord::engine {

// KV rows of one page.
inline constexpr int kKvPageTokens = 16;

// How keys and values are stored. kInt8: one scale per row and head, half or a quarter of the
// bytes.
enum class KvType { kModel, kInt8 };

// Embeddings of one image on the engine's device, filled as chunks arrive; read-only after that.
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
    model::DType dtype = model::DType::kFloat32;  // what it computes in
    // Of the linear layers and the head; the token embedding stays in the file. Packed formats need
    // the CPU.
    WeightFormat weights = {};
    PackedCacheOptions packed_cache = {};
    // Called with what went wrong when packed weights could not be kept.
    std::function<void(const absl::Status& reason)> on_cache_failure = {};
    KvType kv_type = KvType::kModel;
    int kv_tokens = 4 * 4096;        // KV rows of all pages; rounded up to whole pages
    int max_sequence_tokens = 4096;  // of one sequence: prompt + answer
    Attention attention = Attention::kAuto;
    // Called when kAuto falls back from Chord's own kernels to libtorch's, with the reason.
    std::function<void(const absl::Status& reason)> on_fallback = {};
  };
  static absl::StatusOr<std::unique_ptr<LanguageModel>> Load(
      std::shared_ptr<const model::Checkpoint> checkpoint, const model::ModelConfig& config,
      const Options& options);
  virtual ~LanguageModel() = default;

  virtual absl::StatusOr<std::unique_ptr<EmbeddingBuffer>> CreateEmbeddings(
      int64_t rows, model::DType source_dtype) = 0;

  // Consecutive tokens of one sequence.
  struct Chunk {
    // Pages of the sequence: its KV row i is row i % kKvPageTokens of pages[i / kKvPageTokens].
    // At least enough for start + n rows. Pages that hold a row >= start belong to this chunk
    // alone in this step; earlier ones may be shared with any other chunk.
    absl::Span<const int32_t> pages;
    int start = 0;                        // KV rows of the sequence that are already valid
    absl::Span<const int32_t> ids;        // n >= 1
    absl::Span<const int32_t> positions;  // [3, n] row major
    // Row of `embeddings` that replaces the token embedding of ids[i], or -1. Empty: all -1.
    absl::Span<const int32_t> image_rows;
    const EmbeddingBuffer* embeddings = nullptr;
    int logits = 1;  // number of trailing ids that need logits: 0 .. n
  };
  // Runs all chunks in one pass and appends their KV. `logits` receives float32 rows of
  // vocab_size in chunk order; it is resized, keep it to reuse memory. Causal by index; sequences
  // never see each other. Not thread-safe. After an error the KV rows from `start` on of the
  // chunks of this step are undefined, earlier rows are intact.
  virtual absl::Status Step(absl::Span<const Chunk> chunks, std::vector<float>* logits) = 0;

  // Step, then one token chosen from each row of logits. `specs` holds one entry for each row of
  // logits, in chunk order; `tokens` is resized to match. A backend with a device of its own
  // chooses there, so that no logits cross the bus; the default chooses on the host (SampleToken).
  virtual absl::Status StepAndSample(absl::Span<const Chunk> chunks,
                                     absl::Span<const SampleSpec> specs,
                                     std::vector<SampledToken>* tokens);

  // Copies the first `rows` KV rows of page `from` to page `to`, in all layers. Ordered with Step.
  virtual absl::Status CopyPage(int32_t from, int32_t to, int rows) = 0;

  virtual int kv_pages() const = 0;
  virtual int vocab_size() const = 0;
  virtual const Options& options() const = 0;
  virtual int64_t kv_bytes() const = 0;  // of all pages
  // Memory that packed weights take; 0 where weights are used as they are stored.
  virtual int64_t packed_bytes() const { return 0; }

 private:
  std::vector<float> logits_;  // of the default StepAndSample; kept for its memory
};

}  // namespace chord::engine
