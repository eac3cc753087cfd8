// The weights of a Hugging Face directory: mapped, checked, found by canonical name (spec §9).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/model/model_config.h"
#include "common/model/safetensors.h"
#include "common/model/tensor_names.h"

namespace chord::model {

// A view into the mapped file; alive while the Checkpoint is. `data` may be unaligned: code
// that wants typed access checks IsAligned() and copies otherwise.
struct TensorView {
  DType dtype = DType::kOther;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  int64_t bytes = 0;
  bool IsAligned() const {
    const int64_t size = SizeOf(dtype);
    return size <= 1 || reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(size) == 0;
  }
};

// Immutable, thread-safe. Reads model.safetensors, or the shards that model.safetensors.index.json
// names; both naming generations map to the canonical names of spec §9.2 ("visual.…", "model.…",
// "lm_head.weight"). Files are mapped privately and read-only, never copied; they may be links (the
// Hugging Face cache is made of them), while names in the index must be plain file names.
class Checkpoint {
 public:
  // CHECKPOINT_INVALID names the file or tensor: hostile headers (spec §9.3), missing shards, name
  // collisions, pickle files only, quantised layouts other than AWQ and GPTQ, …
  static absl::StatusOr<std::shared_ptr<const Checkpoint>> Open(const std::string& dir);
  ~Checkpoint();

  // A weight. CHECKPOINT_INVALID when the tensor is absent, its shape is not `shape`, or its type
  // is none of BF16, F16 and F32.
  absl::StatusOr<TensorView> Get(absl::string_view canonical_name,
                                 absl::Span<const int64_t> shape) const;
  // The tensor whatever its shape, or nullptr. The pointer lives as long as the Checkpoint.
  const TensorView* Find(absl::string_view canonical_name) const;
  bool Has(absl::string_view canonical_name) const { return Find(canonical_name) != nullptr; }
  std::vector<std::string> Names() const;  // canonical, sorted
  const std::string& dir() const;
  int64_t total_bytes() const;  // of all tensors
  // What is odd but does no harm, one sentence each, for the log.
  const std::vector<std::string>& warnings() const;

 private:
  Checkpoint();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The tensors of the token embedding and of the head: the same one where the config ties them and
// the checkpoint has one of the two alone, or both with equal bytes. A tied checkpoint that stores
// two different matrices means both, as for transformers 5.
std::string EmbeddingTensor(const Checkpoint& checkpoint, const TextConfig& config);
std::string HeadTensor(const Checkpoint& checkpoint, const TextConfig& config);

// OK when every tensor that `part` of the model needs is there, of the config's shape and of a
// floating type we compute from; CHECKPOINT_INVALID lists those that are not. Tensors the model has
// no use for, and a stored head that differs from the embedding in spite of a tied config, become
// `warnings`.
absl::Status VerifyTensors(const Checkpoint& checkpoint, const ModelConfig& config, ModelPart part,
                           std::vector<std::string>* warnings = nullptr);

}  // namespace chord::model
