// The language model's decoder as the plugin sees it (see cuda_api.h): weights, pages of keys and
// values, and one Step over any mix of prefill chunks and decoded tokens. The rules are those of
// engine::LanguageModel, which checks all arguments; nothing is checked again here.
#pragma once

#include "common/engine/cuda/cuda_api.h"

namespace chord::cuda {

struct DecoderOptions {
  int device = 0;
  Dtype dtype = Dtype::kBFloat16;  // one of the two-byte types
  int layers = 0;
  int hidden = 0;
  int intermediate = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int vocab = 0;
  float rms_norm_eps = 0;
  int kv_pages = 0;
  bool kv_int8 = false;
  // Rotary tables [rope_positions, head_dim / 2], rounded to `dtype`, and the axis (0, 1, 2) of
  // each frequency. Host memory, read during create_decoder.
  const float* rope_cos = nullptr;
  const float* rope_sin = nullptr;
  const int32_t* rope_axes = nullptr;
  int rope_positions = 0;
};

// A tensor in host memory, row-major, of any alignment.
struct Tensor {
  const void* data = nullptr;
  Dtype dtype = Dtype::kFloat32;
};

struct LayerTensors {
  Tensor input_norm, post_norm;
  Tensor q_weight, k_weight, v_weight;  // [heads·dim, hidden]
  Tensor q_bias, k_bias, v_bias;
  Tensor o_weight;                // [hidden, heads·dim]
  Tensor gate_weight, up_weight;  // [intermediate, hidden]
  Tensor down_weight;             // [hidden, intermediate]
};

struct DecoderTensors {
  Tensor embedding;  // [vocab, hidden]
  Tensor final_norm;
  Tensor head;                           // [vocab, hidden]; the embedding's data when they are tied
  const LayerTensors* layers = nullptr;  // DecoderOptions::layers of them
};

// Rows of embeddings in device memory, [rows, hidden] of the decoder's type. Thread-safe: one
// writer at a time.
class EmbeddingRows {
 public:
  virtual ~EmbeddingRows() = default;
  // Elements [first, first + count) from host memory, converted. Complete on return.
  virtual Status Write(int64_t first, const void* values, Dtype dtype, int64_t count) = 0;
  virtual void* data() = 0;  // device memory
};

// As engine::LanguageModel::Chunk.
struct StepChunk {
  const int32_t* pages = nullptr;
  int start = 0;
  int count = 0;
  const int32_t* ids = nullptr;
  const int32_t* positions = nullptr;   // [3, count]
  const int32_t* image_rows = nullptr;  // null: none
  const void* embeddings = nullptr;     // EmbeddingRows::data()
  int logits = 0;
};

struct IdBits {
  const uint64_t* words = nullptr;
  int count = 0;  // words past it are zero
};

// As engine::SampleSpec.
struct SampleRequest {
  bool restricted = false;  // to the ids of `allowed`
  IdBits allowed;
  const int32_t* penalized = nullptr;
  int penalized_count = 0;
  float penalty = 1;
  const IdBits* mass_sets = nullptr;
  int mass_set_count = 0;  // at most kMaxSampleSets
};
inline constexpr int kMaxSampleSets = 6;

struct SampleOutcome {
  int32_t id = -1;
  bool finite = true;
  double log_probability = 0;
  double log_mass[kMaxSampleSets] = {};
};

class Decoder {
 public:
  virtual ~Decoder() = default;

  // Once, before anything else. Reads the tensors in big pieces with up to `threads` threads.
  virtual Status Load(const DecoderTensors& tensors, int threads) = 0;
  // Runs a step of each size that is served from a graph, so that later ones find it.
  virtual Status WarmUp() = 0;

  // `logits`: float32 rows of vocab, in chunk order, complete on return.
  virtual Status Step(const StepChunk* chunks, int count, float* logits) = 0;
  // One request and outcome for each row of logits.
  virtual Status StepAndSample(const StepChunk* chunks, int count, const SampleRequest* requests,
                               SampleOutcome* outcomes) = 0;
  virtual Status CopyPage(int from, int to, int rows) = 0;
  // `rows` is given to the caller. Thread-safe.
  virtual Status CreateEmbeddings(int64_t count, EmbeddingRows** rows) = 0;

  virtual int64_t kv_bytes() const = 0;
};

}  // namespace chord::cuda
