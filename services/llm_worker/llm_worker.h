// The language worker as one object: services, model, decode loop, maintenance.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/obs/metrics.h"
#include "common/process/process.h"
#include "services/llm_worker/settings.h"

namespace chord::llm_worker {

class LlmWorker : public process::Worker {
 public:
  // Listens at once, not ready; Load makes it ready. CONFIG_INVALID when it cannot listen.
  // `metrics` is not owned.
  static absl::StatusOr<std::unique_ptr<LlmWorker>> Start(const Settings& settings,
                                                          obs::Metrics* metrics);

  virtual int port() const = 0;  // 0 for unix sockets
  // What is held right now. All zero when nothing is under way.
  struct Counts {
    int calls = 0;                // Decode
    int pushes = 0;               // Push
    int running = 0;              // sequences
    int queued = 0;               // waiting to be admitted
    int64_t tokens = 0;           // KV rows that both may need
    int kv_pages_used = 0;        // without what is cached for later requests
    int64_t embedding_bytes = 0;  // reserved for embeddings
    int tickets = 0;              // live ones
    bool operator==(const Counts&) const = default;
  };
  virtual Counts counts() const = 0;
};

}  // namespace chord::llm_worker
