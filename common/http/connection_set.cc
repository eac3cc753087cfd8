#include "common/http/connection_set.h"

#include <vector>

namespace chord::http {

void ConnectionSet::Add(const std::shared_ptr<Connection>& connection, bool has_room) {
  bool draining;
  {
    absl::MutexLock lock(&mu_);
    ++size_;
    connection->place_ = busy_.insert(busy_.end(), connection.get());
    draining = draining_;
  }
  connection->Post(draining   ? &Connection::Abort
                   : has_room ? &Connection::Start
                              : &Connection::RejectOverCapacity);
}

void ConnectionSet::Remove(Connection* connection) {
  absl::MutexLock lock(&mu_);
  (connection->evictable_ ? idle_ : busy_).erase(connection->place_);
  --size_;
}

void ConnectionSet::SetEvictable(Connection* connection, bool evictable) {
  absl::MutexLock lock(&mu_);
  if (connection->evictable_ == evictable) return;
  std::list<Connection*>& from = evictable ? busy_ : idle_;
  std::list<Connection*>& to = evictable ? idle_ : busy_;
  to.splice(to.end(), from, connection->place_);
  connection->evictable_ = evictable;
}

int ConnectionSet::size() const {
  absl::MutexLock lock(&mu_);
  return size_;
}

bool ConnectionSet::EvictOldest() {
  std::shared_ptr<Connection> oldest;  // released outside the lock: its destructor takes it
  {
    absl::MutexLock lock(&mu_);
    if (idle_.empty()) return false;
    oldest = idle_.front()->weak_from_this().lock();
    idle_.splice(idle_.end(), idle_, idle_.begin());  // the next call takes another one
  }
  if (oldest != nullptr) oldest->Post(&Connection::Evict);
  return true;
}

void ConnectionSet::ForEach(void (Connection::*method)()) {
  std::vector<std::shared_ptr<Connection>> connections;  // released outside the lock
  {
    absl::MutexLock lock(&mu_);
    for (const std::list<Connection*>* list : {&busy_, &idle_}) {
      for (Connection* connection : *list) {
        connections.push_back(connection->weak_from_this().lock());
      }
    }
  }
  for (const auto& connection : connections) {
    if (connection != nullptr) connection->Post(method);
  }
}

void ConnectionSet::Drain() {
  {
    absl::MutexLock lock(&mu_);
    draining_ = true;
  }
  ForEach(&Connection::Drain);
}

void ConnectionSet::AwaitEmpty(absl::Time deadline) {
  const auto await_until = [this](absl::Time until) {
    const auto empty = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return size_ == 0; };
    absl::MutexLock lock(&mu_);
    return mu_.AwaitWithDeadline(absl::Condition(&empty), until);
  };
  for (bool empty = await_until(deadline); !empty;
       empty = await_until(absl::Now() + absl::Milliseconds(200))) {
    ForEach(&Connection::Abort);  // again: one may have been accepted meanwhile
  }
}

}  // namespace chord::http
