// How `chord bench` talks to a server: many prompts under way at once, over gRPC or HTTP. Both
// send an image from the one copy in memory.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "chord/v1/grounding.pb.h"
#include "services/cli/bench/bench_stats.h"
#include "services/cli/bench/workload.h"

namespace chord::cli {

struct BenchAsk {
  int image = 0;
  std::string image_id;  // not empty: names the image instead of sending it
  std::string prompt;
  absl::Duration timeout;
};

struct BenchReply {
  absl::Status status;                                 // catalogued when the server gave a reason
  absl::Time first_token_at = absl::InfiniteFuture();  // of a streamed answer
  ServerTimes times;
  int completion_tokens = 0;
  int decode_steps = 0;
  int boxes = 0;
  ServedBy served_by = ServedBy::kUnknown;
  std::string image_id;  // handle of the image; empty when it is not kept
};

class BenchClient {
 public:
  struct Options {
    std::string address;
    int connections = 4;  // gRPC; over HTTP each request under way has one of its own
    bool stream = false;
    int max_new_tokens = 0;  // 0: the server's default
    v1::Grammar grammar = v1::GRAMMAR_UNSPECIFIED;
  };

  // UNAVAILABLE when no server answers at the address.
  static absl::StatusOr<std::unique_ptr<BenchClient>> Grpc(Options options,
                                                           std::shared_ptr<const Dataset> dataset);
  static absl::StatusOr<std::unique_ptr<BenchClient>> Http(Options options,
                                                           std::shared_ptr<const Dataset> dataset);

  // Every `done` has been called when it returns.
  virtual ~BenchClient() = default;

  // Returns without waiting. `done` is called once, on another thread, and must not block.
  virtual void Send(const BenchAsk& ask, std::function<void(const BenchReply&)> done) = 0;
  // The image_id of an image that has been sent for many prompts. Blocks.
  virtual absl::StatusOr<std::string> Upload(int image, absl::Duration timeout) = 0;
  // Ends what is under way with CANCELLED.
  virtual void CancelAll() = 0;
};

}  // namespace chord::cli
