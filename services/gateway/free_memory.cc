#include "services/gateway/free_memory.h"

#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>

namespace chord {

int64_t ResidentBytes() {
  std::array<char, 128> text{};
  const int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  const ssize_t size = read(fd, text.data(), text.size() - 1);
  close(fd);
  long long total = 0, resident = 0;
  if (size <= 0 || std::sscanf(text.data(), "%lld %lld", &total, &resident) != 2) return 0;
  return resident * sysconf(_SC_PAGESIZE);
}

bool FreeMemory::Return() {
  const int64_t resident = ResidentBytes();
  if (resident - held_ < worth_) {
    held_ = std::min(held_, resident);  // it shrank by itself
    return false;
  }
  const bool some = malloc_trim(0) != 0;
  held_ = ResidentBytes();
  return some;
}

}  // namespace chord
