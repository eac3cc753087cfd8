// Bytes held in memory under one limit, shared fairly between clients.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace chord {

// Thread-safe. How long a transfer takes is its client's choice, so the bytes that are still
// arriving from one client may fill the whole budget when they belong to one transfer, and half of
// it when they belong to several.
class ByteBudget {
 public:
  struct Options {
    int64_t limit = 0;
    // Lets one holder exceed the limit while no other holds anything.
    bool oversize_alone = false;
  };
  explicit ByteBudget(const Options& options) : options_(options) {}
  ByteBudget(const ByteBudget&) = delete;
  ByteBudget& operator=(const ByteBudget&) = delete;

  // The bytes of one transfer or request. Returns them when destroyed; the budget must outlive it.
  // Thread-compatible.
  class Hold {
   public:
    Hold() = default;
    Hold(Hold&& other) noexcept { *this = std::move(other); }
    Hold& operator=(Hold&& other) noexcept;
    ~Hold() { Release(); }

    // Takes `bytes` that are here already. False, and nothing is taken, when they do not fit.
    bool Take(int64_t bytes);
    // Takes `bytes` that have just arrived over the network; also false when the client's share of
    // arriving bytes is used up.
    bool Receive(int64_t bytes);
    // The transfer is complete: its bytes no longer count against the client's share.
    void Arrived();
    void Release();
    int64_t bytes() const { return bytes_; }

   private:
    friend class ByteBudget;
    ByteBudget* budget_ = nullptr;
    std::string client_;
    int64_t bytes_ = 0;
    int64_t arriving_ = 0;  // of those
  };

  // Holds nothing yet. `client` may be empty: then no share limits it.
  Hold Open(absl::string_view client);
  // Whether `bytes` would fit now; takes nothing.
  bool HasRoom(int64_t bytes) const;
  int64_t held() const;

 private:
  struct Arriving {
    int transfers = 0;
    int64_t bytes = 0;
  };
  bool Fits(const Hold& hold, int64_t bytes) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  void ArrivedLocked(Hold& hold) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  mutable absl::Mutex mu_;
  int64_t held_ ABSL_GUARDED_BY(mu_) = 0;
  // Of clients with a transfer under way.
  std::unordered_map<std::string, Arriving> arriving_ ABSL_GUARDED_BY(mu_);
};

}  // namespace chord
