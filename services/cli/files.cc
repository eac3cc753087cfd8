#include "services/cli/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"

namespace chord::cli {
namespace {

absl::Status NotRead(const std::string& path, absl::string_view why) {
  return errors::ConfigInvalid(absl::StrCat(path, " cannot be read: ", why, "."));
}

}  // namespace

absl::StatusOr<std::string> ReadWhole(const std::string& path, int64_t limit) {
  // Not blocking: a pipe of that name would otherwise be waited for.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return NotRead(path, std::strerror(errno));
  const absl::Cleanup close_fd = [fd] { close(fd); };
  struct stat info {};
  if (fstat(fd, &info) != 0) return NotRead(path, std::strerror(errno));
  if (!S_ISREG(info.st_mode)) return errors::ConfigInvalid(absl::StrCat(path, " is not a file."));
  if (info.st_size > limit) {
    return errors::ConfigInvalid(absl::StrCat(path, " is larger than ", limit, " bytes."));
  }
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t got = read(fd, bytes.data() + at, bytes.size() - at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return NotRead(path, std::strerror(errno));
    if (got == 0) return NotRead(path, "it became shorter meanwhile");
    at += static_cast<size_t>(got);
  }
  return bytes;
}

}  // namespace chord::cli
