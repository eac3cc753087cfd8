// How much KV memory a language worker on a GPU takes when nothing was set: as many tokens as free
// memory sensibly allows. Pure; the caller measures the device.
#pragma once

#include <cstdint>
#include <string>

#include "common/model/model_config.h"

namespace chord::engine {

struct KvSizingFacts {
  int64_t free_bytes = 0;             // of the device, before anything of the worker is on it
  int64_t total_bytes = 0;            // of the device
  int64_t weight_bytes = 0;           // of the language model, in the compute dtype
  int64_t kv_token_bytes = 0;         // keys and values of one token in all layers
  int64_t embedding_token_bytes = 0;  // one row of image embeddings
  int sequence_tokens = 0;            // longest request
  int prefill_tokens = 0;             // of one step
  int64_t step_token_bytes = 0;       // working memory of one token of a step
  bool shares_device = false;  // a vision worker takes, or will take, memory of this device too
};

struct KvSize {
  int tokens = 0;      // whole pages; 0: not even one longest request fits
  int sequences = 0;   // requests that may run together
  std::string reason;  // one line for the log: what was chosen, and from what
};

// What is kept free: room for a vision worker where it shares the device, and a reserve for the
// driver, for graphs and for fragmentation. Of the rest, KV takes what remains after weights,
// working memory and the image cache. At most kMaxAutoKvTokens, beyond which more does not help.
inline constexpr int kMaxAutoKvTokens = 1 << 20;
KvSize SizeKv(const KvSizingFacts& facts);

// Of a model of this shape, in a type of `element` bytes: its weights, and what one token of a step
// takes of working memory.
int64_t LanguageWeightBytes(const model::TextConfig& config, int64_t element);
int64_t StepTokenBytes(const model::TextConfig& config, int64_t element);

// Bytes of one token's keys and values, of `element` bytes a value. int8: of one, and a float32
// scale a head.
int64_t KvTokenBytes(int layers, int kv_heads, int head_dim, int64_t element, bool int8);

}  // namespace chord::engine
