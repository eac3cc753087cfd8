#include "common/engine/kv_sizing.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "common/engine/language_model.h"

namespace chord::engine {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;
// The 3B's and 7B's vision tower: 1.4 GB of weights in bf16, and the activations of one large
// image.
constexpr int64_t kVisionBytes = 5 * kGiB;
constexpr int kMinSequences = 4, kMaxSequences = 64;
// A typical request: an image of about a thousand tokens, a prompt and an answer.
constexpr int kTypicalTokens = 1536;

double GiB(int64_t bytes) { return static_cast<double>(bytes) / kGiB; }

}  // namespace

int64_t KvTokenBytes(int layers, int kv_heads, int head_dim, int64_t element, bool int8) {
  const int64_t head = int8 ? head_dim + int64_t{sizeof(float)} : element * head_dim;
  return int64_t{2} * layers * kv_heads * head;
}

int64_t LanguageWeightBytes(const model::TextConfig& c, int64_t element) {
  const int64_t width = c.hidden_size, q = int64_t{c.num_attention_heads} * c.head_dim;
  const int64_t kv = int64_t{c.num_key_value_heads} * c.head_dim;
  const int64_t layer = width * (q + 2 * kv) + q * width + 3 * width * c.intermediate_size;
  const int64_t tables = (c.tie_word_embeddings ? 1 : 2) * int64_t{c.vocab_size} * width;
  return element * (c.num_hidden_layers * layer + tables);
}

int64_t StepTokenBytes(const model::TextConfig& c, int64_t element) {
  const int64_t heads = c.num_attention_heads + c.num_key_value_heads;
  return element *
         (4 * int64_t{c.hidden_size} + 3 * heads * c.head_dim + 3 * int64_t{c.intermediate_size});
}

KvSize SizeKv(const KvSizingFacts& f) {
  const int64_t reserve = std::max(f.total_bytes / 20, kGiB);
  const int64_t vision = f.shares_device ? std::min(kVisionBytes, f.total_bytes / 4) : 0;
  const int64_t step = f.step_token_bytes * f.prefill_tokens;
  const int64_t room = f.free_bytes - reserve - vision - f.weight_bytes - step;
  // Image embeddings are kept for twice as many tokens as KV holds, and as many are on their way.
  const int64_t per_token = f.kv_token_bytes + 4 * f.embedding_token_bytes;
  KvSize out;
  const int64_t tokens =
      std::clamp<int64_t>(per_token > 0 ? room / per_token : 0, 0, kMaxAutoKvTokens);
  if (tokens >= f.sequence_tokens) {
    out.tokens = static_cast<int>(tokens / kKvPageTokens * kKvPageTokens);
    out.sequences = std::clamp(out.tokens / kTypicalTokens, kMinSequences, kMaxSequences);
  }
  out.reason = absl::StrFormat(
      "%.1f of %.1f GiB are free: %.1f for weights, %.1f for a step of %d tokens, %.1f kept for "
      "the "
      "vision worker, %.1f in reserve; KV takes %.1f for %d tokens",
      GiB(f.free_bytes), GiB(f.total_bytes), GiB(f.weight_bytes), GiB(step), f.prefill_tokens,
      GiB(vision), GiB(reserve), GiB(out.tokens * f.kv_token_bytes), out.tokens);
  return out;
}

}  // namespace chord::engine
