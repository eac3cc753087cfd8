// Admission: how many requests at once in all and of one client, and how many bytes of images.
// Every answer is immediate, so that a refusal never waits behind work.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/byte_budget.h"

namespace chord::gateway {

// The client behind a gRPC peer ("ipv4:10.0.0.1:4711", "ipv6:%5B::1%5D:4711", "unix:…"): its
// address without port, as the HTTP endpoint names it; "local" behind a unix socket.
std::string ClientOfGrpcPeer(absl::string_view peer);
inline constexpr absl::string_view kLocalClient = "local";

// Thread-safe.
class Admission {
 public:
  struct Options {
    int max_requests = 64;            // being answered
    int client_requests = 32;         // of those, of one client; uploads count with them
    int64_t max_bytes = 256LL << 20;  // images of all requests and uploads under way together
  };
  explicit Admission(const Options& options)
      : options_(options), bytes_({.limit = options.max_bytes, .oversize_alone = true}) {}
  Admission(const Admission&) = delete;
  Admission& operator=(const Admission&) = delete;

  // One request's slot; returns it when destroyed. Its Admission must outlive it.
  class Slot {
   public:
    Slot() = default;
    Slot(Slot&& other) noexcept { *this = std::move(other); }
    Slot& operator=(Slot&& other) noexcept;
    ~Slot() { Release(); }
    // More of its bytes have arrived. OVERLOADED, and nothing is taken, when the budget of all
    // bytes, or this client's share of arriving ones (ByteBudget), is used up.
    absl::Status Grow(int64_t bytes);

   private:
    friend class Admission;
    void Release();
    Admission* admission_ = nullptr;
    std::string client_;
    ByteBudget::Hold bytes_;
    bool request_ = false;
  };

  // OVERLOADED or CLIENT_LIMIT, each with the time after which a slot is likely to be free.
  // `client` may be empty: of no client. A request that alone has more bytes than the limit is let
  // in when no other is there.
  absl::StatusOr<Slot> Enter(absl::string_view client, int64_t bytes);
  // The same for the arrival of an image: it counts for its client and its bytes, not as a
  // request that is being answered.
  absl::StatusOr<Slot> EnterUpload(absl::string_view client, int64_t bytes);
  // What Enter would say to a request without an image; takes nothing.
  absl::Status Check(absl::string_view client) const;
  absl::Status CheckUpload(absl::string_view client) const;

  // How long an answered request took; from these the retry time is estimated.
  void Answered(absl::Duration took);
  absl::Duration RetryAfter() const;
  int in_flight() const;

 private:
  absl::StatusOr<Slot> EnterAs(absl::string_view client, int64_t bytes, bool request);
  absl::Status Refusal(absl::string_view client, bool request) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  absl::Duration RetryAfterLocked() const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  void Return(const Slot& slot);

  const Options options_;
  ByteBudget bytes_;
  mutable absl::Mutex mu_;
  int requests_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Duration mean_ ABSL_GUARDED_BY(mu_) = absl::Milliseconds(500);
  // Slots of each client that has one.
  std::unordered_map<std::string, int> clients_ ABSL_GUARDED_BY(mu_);
};

// Retries may be a share of the traffic, never a storm: every request earns `share` of a retry, up
// to `burst` of them. Thread-safe.
class RetryBudget {
 public:
  explicit RetryBudget(double share = 0.1, double burst = 10)
      : share_(share), burst_(burst), left_(burst) {}
  void Earn();
  bool TrySpend();

 private:
  const double share_, burst_;
  absl::Mutex mu_;
  double left_ ABSL_GUARDED_BY(mu_);
};

}  // namespace chord::gateway
