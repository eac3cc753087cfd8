// What a worker has once its model is loaded, for the services that were registered before.
#pragma once

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace chord::process {

// Thread-safe. The worker owns it, sets it when everything in it is ready and resets it after the
// last call has left the gate, so a pointer that a call has got stays valid until the call leaves.
template <typename Core>
class LoadedModel {
 public:
  // Null while the model loads and after Reset.
  Core* get() const {
    absl::MutexLock lock(&mu_);
    return core_.get();
  }
  void Set(std::unique_ptr<Core> core) {
    absl::MutexLock lock(&mu_);
    core_ = std::move(core);
  }
  // Destroys the core on this thread, without the lock.
  void Reset() {
    std::unique_ptr<Core> old;
    absl::MutexLock lock(&mu_);
    old.swap(core_);
  }

 private:
  mutable absl::Mutex mu_;
  std::unique_ptr<Core> core_ ABSL_GUARDED_BY(mu_);
};

}  // namespace chord::process
