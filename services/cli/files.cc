#include "services/cli/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;

absl::Status NotRead(const std::string& path, absl::string_view why) {
  return errors::ConfigInvalid(absl::StrCat(path, " cannot be read: ", why, "."));
}

absl::Status NotWritten(const std::string& path, absl::string_view why) {
  return errors::FileNotWritten(absl::StrCat("Cannot write ", path, ": ", why, "."));
}

// A link is followed, so that the file it names is replaced and not the link.
std::string Place(const std::string& path) {
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  return error ? path : real.string();
}

std::string Draft(const std::string& place) { return absl::StrCat(place, ".", getpid(), ".part"); }

bool IsOrdinary(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) != 0 || S_ISREG(info.st_mode) || S_ISDIR(info.st_mode);
}

absl::Status WriteAll(int fd, const std::string& path, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return NotWritten(path, std::strerror(errno));
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
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

absl::Status WriteWhole(const std::string& path, absl::string_view bytes) {
  if (!IsOrdinary(path)) {
    const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) return NotWritten(path, std::strerror(errno));
    const absl::Status status = WriteAll(fd, path, bytes);
    if (close(fd) != 0 && status.ok()) return NotWritten(path, std::strerror(errno));
    return status;
  }
  const std::string place = Place(path), draft = Draft(place);
  const int fd = open(draft.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return NotWritten(path, std::strerror(errno));
  absl::Status status = WriteAll(fd, path, bytes);
  if (close(fd) != 0 && status.ok()) status = NotWritten(path, std::strerror(errno));
  if (status.ok() && rename(draft.c_str(), place.c_str()) != 0) {
    status = NotWritten(path, std::strerror(errno));
  }
  if (!status.ok()) unlink(draft.c_str());
  return status;
}

absl::Status CheckWritable(const std::string& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) return NotWritten(path, "it is a folder");
  if (!IsOrdinary(path)) return absl::OkStatus();
  const std::string draft = Draft(Place(path));
  const int fd = open(draft.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) return NotWritten(path, std::strerror(errno));
  close(fd);
  unlink(draft.c_str());
  return absl::OkStatus();
}

}  // namespace chord::cli
