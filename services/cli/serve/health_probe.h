// Asks one process over gRPC how it is (grpc.health.v1).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"

namespace chord::cli {

// Thread-safe. A process that was started again is asked at the same address.
class HealthProbe {
 public:
  // `service`: the one whose health is readiness.
  HealthProbe(const std::string& address, const std::string& service);
  ~HealthProbe();  // does not wait for an answer
  HealthProbe(const HealthProbe&) = delete;
  HealthProbe& operator=(const HealthProbe&) = delete;

  // Asks, unless an answer is awaited. Returns at once.
  void Ask(absl::Duration timeout);

  struct Answer {
    absl::Time at;
    bool ready = false;
  };
  // The latest answer since the last call; nullopt: none.
  std::optional<Answer> Take();

 private:
  struct State;
  const std::shared_ptr<State> state_;
};

}  // namespace chord::cli
