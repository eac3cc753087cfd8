// chord.config.v1.LlmWorker with defaults filled in and every value checked.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "chord/config/v1/config.pb.h"
#include "common/engine/language_model.h"

namespace chord::llm_worker {

struct Settings {
  std::string model_dir;
  std::string address;
  std::string metrics_address;  // empty: none
  std::string device;
  std::string dtype;
  int threads = 0;
  int max_sequences = 0;        // 0: kDefaultSequences, on a GPU as KV memory allows
  int max_sequence_tokens = 0;  // 0: the model's limit, at most kDefaultSequenceTokens
  int max_queue = 64;
  absl::Duration ticket_ttl = absl::Seconds(30);
  absl::Duration drain = absl::Seconds(10);
  // 0: on a GPU as free memory allows, else kDefaultKvSequences longest requests, at most
  // kDefaultKvTokens.
  int kv_tokens = 0;
  engine::KvType kv_type = engine::KvType::kModel;
  engine::Attention attention = engine::Attention::kAuto;
  int prefill_tokens = 0;         // 0: by the device
  int64_t image_cache_bytes = 0;  // 0: embeddings of twice as many tokens as KV holds
  absl::Duration image_ttl = absl::Minutes(10);
  engine::PackedCacheOptions packed_cache;
};

inline constexpr int kDefaultSequences = 16;
inline constexpr int kDefaultSequenceTokens = 8192;
inline constexpr int kDefaultKvSequences = 4;
inline constexpr int kDefaultKvTokens = 32'768;

// CONFIG_INVALID names the field and its range.
absl::StatusOr<Settings> CheckSettings(const config::v1::LlmWorker& config);

}  // namespace chord::llm_worker
