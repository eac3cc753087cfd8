#include "services/llm_worker/reservation.h"

#include <cassert>
#include <cstdlib>
#include <utility>
#include <vector>

#include "common/base/errors.h"

namespace chord::llm_worker {

bool CanMove(TicketState from, TicketState to) {
  using S = TicketState;
  switch (from) {
    case S::kNew:
      return to == S::kReserved || to == S::kComplete;
    case S::kReserved:
      return to == S::kReceiving || to == S::kCancelled || to == S::kExpired;
    case S::kReceiving:
      return to == S::kComplete || to == S::kCancelPending;
    case S::kComplete:
      return to == S::kTaken || to == S::kCancelled;
    case S::kCancelPending:
      return to == S::kCancelled;
    case S::kTaken:
    case S::kCancelled:
    case S::kExpired:
      return false;
  }
  return false;
}

bool IsTerminal(TicketState state) {
  return state == TicketState::kTaken || state == TicketState::kCancelled ||
         state == TicketState::kExpired;
}

absl::string_view TicketStateName(TicketState state) {
  switch (state) {
    case TicketState::kNew:
      return "new";
    case TicketState::kReserved:
      return "reserved";
    case TicketState::kReceiving:
      return "receiving";
    case TicketState::kComplete:
      return "complete";
    case TicketState::kTaken:
      return "taken";
    case TicketState::kCancelPending:
      return "cancel pending";
    case TicketState::kCancelled:
      return "cancelled";
    case TicketState::kExpired:
      return "expired";
  }
  return "?";
}

Reservation::Reservation(std::string id, const EmbeddingShape& shape, absl::Time expires,
                         CancelSource source)
    : id_(std::move(id)), shape_(shape), expires_(expires), source_(std::move(source)) {
  absl::MutexLock lock(&mu_);
  Move(shape_.rows > 0 ? TicketState::kReserved : TicketState::kComplete);
}

// An edge that the table does not have is a bug of this process; going on would hand one request's
// rows to another.
void Reservation::Move(TicketState to) {
  if (!CanMove(state_, to)) std::abort();
  state_ = to;
}

TicketState Reservation::state() const {
  absl::MutexLock lock(&mu_);
  return state_;
}

absl::Status Reservation::BeginReceive() {
  absl::MutexLock lock(&mu_);
  switch (state_) {
    case TicketState::kReserved:
      if (!writer_expected_) return errors::TicketUnknown();
      Move(TicketState::kReceiving);
      return absl::OkStatus();
    case TicketState::kReceiving:
    case TicketState::kComplete:
    case TicketState::kTaken:
      return errors::TicketReused();
    default:
      return errors::TicketUnknown();
  }
}

absl::Status Reservation::Complete(std::unique_ptr<engine::EmbeddingBuffer> embeddings) {
  {
    absl::MutexLock lock(&mu_);
    if (state_ != TicketState::kCancelPending) {
      Move(TicketState::kComplete);
      if (needed_) embeddings_ = std::move(embeddings);
      return absl::OkStatus();
    }
    Move(TicketState::kCancelled);
  }
  return source_.token().Check();
}

void Reservation::WriterLeft(absl::Status reason) {
  {
    absl::MutexLock lock(&mu_);
    if (state_ == TicketState::kReceiving) Move(TicketState::kCancelPending);
    Move(TicketState::kCancelled);
    if (!needed_) return;
  }
  source_.Cancel(std::move(reason));
}

std::optional<std::unique_ptr<engine::EmbeddingBuffer>> Reservation::Take() {
  absl::MutexLock lock(&mu_);
  if (state_ != TicketState::kComplete) return std::nullopt;
  Move(TicketState::kTaken);
  return std::move(embeddings_);
}

void Reservation::EmbeddingsNotNeeded(bool push_expected) {
  std::unique_ptr<engine::EmbeddingBuffer> embeddings;  // freed outside the lock
  absl::MutexLock lock(&mu_);
  needed_ = false;
  writer_expected_ = push_expected;
  embeddings = std::move(embeddings_);
}

void Reservation::Cancel(absl::Status reason) {
  std::unique_ptr<engine::EmbeddingBuffer> embeddings;  // freed outside the lock
  {
    absl::MutexLock lock(&mu_);
    if (state_ == TicketState::kReceiving) {
      Move(TicketState::kCancelPending);
    } else if (state_ == TicketState::kReserved || state_ == TicketState::kComplete) {
      Move(TicketState::kCancelled);
      embeddings = std::move(embeddings_);
    }
  }
  source_.Cancel(std::move(reason));
}

bool Reservation::ExpireIfDue(absl::Time now, const absl::Status& reason) {
  {
    absl::MutexLock lock(&mu_);
    if (state_ != TicketState::kReserved || !needed_ || now < expires_) return false;
    Move(TicketState::kExpired);
  }
  source_.Cancel(reason);
  return true;
}

absl::StatusOr<std::shared_ptr<Reservation>> TicketTable::Reserve(const std::string& id,
                                                                  const EmbeddingShape& shape,
                                                                  CancelSource source,
                                                                  absl::Time now,
                                                                  bool push_expected) {
  std::shared_ptr<Reservation> reservation;
  std::vector<Waiter> waiters;
  {
    absl::MutexLock lock(&mu_);
    if (live_.count(id) > 0 || tombstones_.count(id) > 0) return errors::TicketReused();
    const absl::Time expires = push_expected ? now + options_.ttl : absl::InfiniteFuture();
    reservation = std::make_shared<Reservation>(id, shape, expires, std::move(source));
    live_.emplace(id, reservation);
    waiters = TakeWaiters(id);
  }
  for (Waiter& waiter : waiters) waiter(reservation);
  return reservation;
}

void TicketTable::Release(const std::string& id, absl::Time now) {
  std::shared_ptr<Reservation> reservation;
  {
    absl::MutexLock lock(&mu_);
    auto it = live_.find(id);
    if (it == live_.end()) return;
    reservation = std::move(it->second);
    live_.erase(it);
    AddTombstone(id, reservation->state() == TicketState::kTaken, now);
  }
  reservation->Cancel(errors::Cancelled());
}

void TicketTable::Refuse(const std::string& id, absl::Time now) {
  std::vector<Waiter> waiters;
  {
    absl::MutexLock lock(&mu_);
    if (live_.count(id) > 0 || tombstones_.count(id) > 0) return;
    AddTombstone(id, /*was_taken=*/false, now);
    waiters = TakeWaiters(id);
  }
  for (Waiter& waiter : waiters) waiter(errors::TicketUnknown());
}

void TicketTable::Await(const std::string& id, absl::Time until, Waiter waiter) {
  absl::StatusOr<std::shared_ptr<Reservation>> answer = errors::TicketUnknown();
  {
    absl::MutexLock lock(&mu_);
    if (auto live = live_.find(id); live != live_.end()) {
      answer = live->second;
    } else if (auto tomb = tombstones_.find(id); tomb != tombstones_.end()) {
      if (tomb->second.was_taken) answer = errors::TicketReused();
    } else if (waiters_.size() < options_.max_waiters) {
      waiters_.emplace(id, Waiting{until, std::move(waiter)});
      return;
    }
  }
  waiter(std::move(answer));
}

void TicketTable::Sweep(absl::Time now, const absl::Status& no_writer) {
  std::vector<Waiter> late;
  std::vector<std::shared_ptr<Reservation>> live;
  {
    absl::MutexLock lock(&mu_);
    for (auto it = waiters_.begin(); it != waiters_.end();) {
      if (now < it->second.until) {
        ++it;
        continue;
      }
      late.push_back(std::move(it->second.waiter));
      it = waiters_.erase(it);
    }
    while (!tombstone_order_.empty()) {
      auto it = tombstones_.find(tombstone_order_.front());
      if (it != tombstones_.end() && now < it->second.until) break;
      if (it != tombstones_.end()) tombstones_.erase(it);
      tombstone_order_.pop_front();
    }
    for (const auto& [id, reservation] : live_) live.push_back(reservation);
  }
  for (Waiter& waiter : late) waiter(errors::TicketUnknown());
  for (const auto& reservation : live) {
    if (reservation->ExpireIfDue(now, no_writer)) continue;
    // A deadline that passes fires no callback by itself.
    if (auto status = reservation->token().Check(); !status.ok()) reservation->Cancel(status);
  }
}

void TicketTable::AddTombstone(const std::string& id, bool was_taken, absl::Time now) {
  if (tombstone_order_.size() >= options_.max_tombstones) {
    tombstones_.erase(tombstone_order_.front());
    tombstone_order_.pop_front();
  }
  tombstones_[id] = {was_taken, now + options_.tombstone_age};
  tombstone_order_.push_back(id);
}

std::vector<TicketTable::Waiter> TicketTable::TakeWaiters(const std::string& id) {
  std::vector<Waiter> out;
  auto [begin, end] = waiters_.equal_range(id);
  for (auto it = begin; it != end; ++it) out.push_back(std::move(it->second.waiter));
  waiters_.erase(begin, end);
  return out;
}

size_t TicketTable::live() const {
  absl::MutexLock lock(&mu_);
  return live_.size();
}
size_t TicketTable::tombstones() const {
  absl::MutexLock lock(&mu_);
  return tombstones_.size();
}
size_t TicketTable::waiters() const {
  absl::MutexLock lock(&mu_);
  return waiters_.size();
}

}  // namespace chord::llm_worker
