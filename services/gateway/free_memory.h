// Gives freed memory back to the system. glibc keeps what a thread has freed in that thread's
// arena, so that after a burst of large messages a process may hold gigabytes that it does not use.
#pragma once

#include <cstdint>

namespace chord {

int64_t ResidentBytes();  // of this process; 0 when the system does not tell

class FreeMemory {
 public:
  // `worth` bytes of growth since the last time are worth the work, which is milliseconds.
  explicit FreeMemory(int64_t worth = 64 << 20) : worth_(worth), held_(ResidentBytes()) {}
  // To be called every few seconds; one thread at a time. True: memory was given back.
  bool Return();

 private:
  const int64_t worth_;
  int64_t held_;  // after the last time
};

}  // namespace chord
