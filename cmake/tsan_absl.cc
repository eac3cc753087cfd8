// Linked into every program of a thread-sanitizer build. Debian's abseil is built without the
// sanitizer, which therefore does not see its locks and takes everything they guard for a race. The
// linker's
// --wrap (cmake/ChordTarget.cmake) leads calls from our code through here: what happened before an
// unlock happened before the next lock.
#include <sanitizer/tsan_interface.h>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

#define ACQUIRE(p) __tsan_acquire(const_cast<void*>(static_cast<const void*>(p)))
#define RELEASE(p) __tsan_release(const_cast<void*>(static_cast<const void*>(p)))

using absl::Condition;
using absl::CondVar;
using absl::Duration;
using absl::Mutex;
using absl::Notification;
using absl::Time;

// A call that ends with the lock held.
#define LOCKS(symbol, parameters, ...) \
  void __real_##symbol parameters;     \
  void __wrap_##symbol parameters {    \
    __real_##symbol(__VA_ARGS__);      \
    ACQUIRE(mu);                       \
  }
// A call that gives the lock away and takes it again.
#define WAITS(result, symbol, parameters, ...) \
  result __real_##symbol parameters;           \
  result __wrap_##symbol parameters {          \
    RELEASE(mu);                               \
    struct Acquire {                           \
      const void* p;                           \
      ~Acquire() { ACQUIRE(p); }               \
    } acquire{mu};                             \
    return __real_##symbol(__VA_ARGS__);       \
  }
#define UNLOCKS(symbol)             \
  void __real_##symbol(Mutex* mu);  \
  void __wrap_##symbol(Mutex* mu) { \
    RELEASE(mu);                    \
    __real_##symbol(mu);            \
  }
#define TRIES(symbol)                      \
  bool __real_##symbol(Mutex* mu);         \
  bool __wrap_##symbol(Mutex* mu) {        \
    const bool held = __real_##symbol(mu); \
    if (held) ACQUIRE(mu);                 \
    return held;                           \
  }

extern "C" {
LOCKS(_ZN4absl7debian35Mutex4LockEv, (Mutex * mu), mu)
LOCKS(_ZN4absl7debian35Mutex10ReaderLockEv, (Mutex * mu), mu)
LOCKS(_ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE, (Mutex * mu, const Condition& c), mu, c)
UNLOCKS(_ZN4absl7debian35Mutex6UnlockEv)
UNLOCKS(_ZN4absl7debian35Mutex12ReaderUnlockEv)
TRIES(_ZN4absl7debian35Mutex7TryLockEv)
TRIES(_ZN4absl7debian35Mutex13ReaderTryLockEv)
WAITS(void, _ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE, (Mutex * mu, const Condition& c), mu, c)
WAITS(bool, _ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE,
      (Mutex * mu, const Condition& c, Duration d), mu, c, d)
WAITS(bool, _ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE,
      (Mutex * mu, const Condition& c, Time t), mu, c, t)
WAITS(bool, _ZN4absl7debian35Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE,
      (Mutex * mu, const Condition& c, Duration d), mu, c, d)
WAITS(bool, _ZN4absl7debian35Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE,
      (Mutex * mu, const Condition& c, Time t), mu, c, t)
WAITS(void, _ZN4absl7debian37CondVar4WaitEPNS0_5MutexE, (CondVar * cv, Mutex* mu), cv, mu)
WAITS(bool, _ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE,
      (CondVar * cv, Mutex* mu, Duration d), cv, mu, d)
WAITS(bool, _ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE,
      (CondVar * cv, Mutex* mu, Time t), cv, mu, t)

void __real__ZN4absl7debian312Notification6NotifyEv(Notification* n);
void __wrap__ZN4absl7debian312Notification6NotifyEv(Notification* n) {
  RELEASE(n);
  __real__ZN4absl7debian312Notification6NotifyEv(n);
}
#define AWAITS_NOTIFICATION(result, symbol, parameters, ...) \
  result __real_##symbol parameters;                         \
  result __wrap_##symbol parameters {                        \
    struct Acquire {                                         \
      const void* p;                                         \
      ~Acquire() { ACQUIRE(p); }                             \
    } acquire{n};                                            \
    return __real_##symbol(__VA_ARGS__);                     \
  }
AWAITS_NOTIFICATION(void, _ZNK4absl7debian312Notification19WaitForNotificationEv,
                    (const Notification* n), n)
AWAITS_NOTIFICATION(bool,
                    _ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE,
                    (const Notification* n, Duration d), n, d)
AWAITS_NOTIFICATION(bool,
                    _ZNK4absl7debian312Notification31WaitForNotificationWithDeadlineENS0_4TimeE,
                    (const Notification* n, Time t), n, t)
}  // extern "C"
