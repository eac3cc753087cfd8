// A ticket's life on the receiving side, where a reservation, a remote writer, a cancellation and a
// timer meet. No gRPC, no tensors; time comes in as an argument.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/cancel.h"
#include "common/engine/language_model.h"
#include "common/image/frame_plan.h"

namespace chord::llm_worker {

// kNew ─► kReserved ─► kReceiving ─► kComplete ─► kTaken          (prefill owns the embeddings)
//   │         │             └─► kCancelPending ─► kCancelled      (a writer is inside until then)
//   │         ├─► kExpired
//   │         └─────────────► kCancelled ◄── kComplete
//   └─► kComplete                                                 (a request without images)
enum class TicketState {
  kNew,
  kReserved,       // waits for its writer, not longer than its time to live
  kReceiving,      // a writer is inside; it owns what it has written
  kComplete,       // the embeddings are here and not used yet
  kTaken,          // terminal: the embeddings were handed out, once
  kCancelPending,  // cancelled, but the writer has not left
  kCancelled,      // terminal
  kExpired,        // terminal
};
bool CanMove(TicketState from, TicketState to);
bool IsTerminal(TicketState state);
absl::string_view TicketStateName(TicketState state);

// What the writer must send. rows 0: the request has no image and no writer.
struct EmbeddingShape {
  image::Grid grid;
  int64_t rows = 0;
  int32_t width = 0;  // the language model's hidden size
  std::string model_fingerprint;
};

// The ticket of one request. Thread-safe. Never calls out while it holds its lock.
class Reservation {
 public:
  // `source` is the request's own; it is fired with the reason when the writer fails.
  Reservation(std::string id, const EmbeddingShape& shape, absl::Time expires, CancelSource source);

  const std::string& id() const { return id_; }
  const EmbeddingShape& shape() const { return shape_; }
  CancelToken token() const { return source_.token(); }
  TicketState state() const;

  // For the writer.
  // kReserved -> kReceiving. TICKET_REUSED when a writer came before, TICKET_UNKNOWN when the
  // ticket is cancelled or expired.
  absl::Status BeginReceive();
  // REQUIRES: BeginReceive succeeded, neither Complete nor WriterLeft was called.
  // kReceiving -> kComplete; a cancelled ticket drops them and returns the reason.
  absl::Status Complete(std::unique_ptr<engine::EmbeddingBuffer> embeddings);
  // Same requirement. The writer gives up for `reason`, the request ends with it; a ticket that was
  // cancelled before keeps its own reason.
  void WriterLeft(absl::Status reason);

  // For the reader.
  bool complete() const { return state() == TicketState::kComplete; }
  // kComplete -> kTaken; null: no image. nullopt, and nothing moves, in any other state: the
  // embeddings are not here yet, or the ticket was cancelled, which may happen at any time.
  std::optional<std::unique_ptr<engine::EmbeddingBuffer>> Take();
  // The request is served from the cache. Embeddings that are here or still arrive are dropped, and
  // a writer that fails does not matter. A writer that was not announced (`push_expected` false) is
  // refused.
  void EmbeddingsNotNeeded(bool push_expected);

  // For any thread.
  // Idempotent; a taken ticket only fires the source.
  void Cancel(absl::Status reason);
  // kReserved -> kExpired when its time has come; the request ends with `reason`.
  bool ExpireIfDue(absl::Time now, const absl::Status& reason);

 private:
  void Move(TicketState to) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::string id_;
  const EmbeddingShape shape_;
  const absl::Time expires_;
  CancelSource source_;
  mutable absl::Mutex mu_;
  TicketState state_ ABSL_GUARDED_BY(mu_) = TicketState::kNew;
  std::unique_ptr<engine::EmbeddingBuffer> embeddings_ ABSL_GUARDED_BY(mu_);
  bool needed_ ABSL_GUARDED_BY(mu_) = true;           // the request waits for embeddings
  bool writer_expected_ ABSL_GUARDED_BY(mu_) = true;  // a writer may come
};

// All tickets of this worker. What has ended leaves a tombstone, bounded in number and age, so that
// a late or second writer is refused at once and a ticket cannot be used again.
class TicketTable {
 public:
  struct Options {
    absl::Duration ttl = absl::Seconds(30);            // of a reservation without a writer
    absl::Duration tombstone_age = absl::Seconds(60);  // outlives any late writer's wait
    size_t max_tombstones = 4096;
    size_t max_waiters = 256;
  };
  using Waiter = std::function<void(absl::StatusOr<std::shared_ptr<Reservation>>)>;

  explicit TicketTable(const Options& options) : options_(options) {}

  // TICKET_REUSED when `id` is live or has a tombstone. `push_expected`: a writer is on its way and
  // late after the time to live; else the reservation lives as long as its request.
  absl::StatusOr<std::shared_ptr<Reservation>> Reserve(const std::string& id,
                                                       const EmbeddingShape& shape,
                                                       CancelSource source, absl::Time now,
                                                       bool push_expected = true);
  // The request has ended: the entry becomes a tombstone. Cancels what is not terminal. A writer
  // still inside keeps the Reservation alive until it leaves. Unknown ids are ignored.
  void Release(const std::string& id, absl::Time now);
  // The request was turned down before a reservation: its writer is refused at once.
  void Refuse(const std::string& id, absl::Time now);

  // Calls `waiter` once, here or later on another thread, never under a lock: with the reservation
  // when it is there or comes before `until`; TICKET_REUSED or TICKET_UNKNOWN otherwise.
  void Await(const std::string& id, absl::Time until, Waiter waiter);

  // Expires reservations, ends requests whose deadline has passed, waiters and tombstones. Called
  // a few times a second. `no_writer` is what an expired request ends with.
  void Sweep(absl::Time now, const absl::Status& no_writer);

  size_t live() const;
  size_t tombstones() const;
  size_t waiters() const;

 private:
  struct Tombstone {
    bool was_taken = false;
    absl::Time until;
  };
  struct Waiting {
    absl::Time until;
    Waiter waiter;
  };
  void AddTombstone(const std::string& id, bool was_taken, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::vector<Waiter> TakeWaiters(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  mutable absl::Mutex mu_;
  std::map<std::string, std::shared_ptr<Reservation>> live_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Tombstone> tombstones_ ABSL_GUARDED_BY(mu_);
  std::deque<std::string> tombstone_order_ ABSL_GUARDED_BY(mu_);  // oldest first
  std::multimap<std::string, Waiting> waiters_ ABSL_GUARDED_BY(mu_);
};

}  // namespace chord::llm_worker
