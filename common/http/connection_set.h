// The open connections of a server. Internal to common/http.
#pragma once

#include <list>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/http/connection.h"

namespace chord::http {

// Thread-safe. Owns nothing: connections own themselves while something is pending.
class ConnectionSet {
 public:
  // Adds and starts it. `has_room`: false when it is only told that there are too many.
  void Add(const std::shared_ptr<Connection>& connection, bool has_room);
  void Remove(Connection* connection);
  void SetEvictable(Connection* connection, bool evictable);
  int size() const;
  // Ends the connection that has waited longest without a request. False: all have one under way.
  bool EvictOldest();

  // Those that are added from now on are ended at once; the others end between requests.
  void Drain();
  // Waits until all have ended; from `deadline` on they are aborted.
  void AwaitEmpty(absl::Time deadline);

 private:
  void ForEach(void (Connection::*method)());

  mutable absl::Mutex mu_;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  int size_ ABSL_GUARDED_BY(mu_) = 0;
  std::list<Connection*> busy_ ABSL_GUARDED_BY(mu_);
  std::list<Connection*> idle_ ABSL_GUARDED_BY(mu_);  // the longest idle one first
};

}  // namespace chord::http
