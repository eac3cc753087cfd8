#include "common/base/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/files.h"
#include "common/base/ids.h"

namespace chord {
namespace {

absl::Status NotWritten(const std::string& path, absl::string_view why) {
  return errors::FileNotWritten(absl::StrCat("Cannot write ", Printable(path), ": ", why, "."));
}
absl::Status NotWritten(const std::string& path, int error) {
  return NotWritten(path, std::strerror(error));
}

// Where the content goes: the file that a link names.
std::string Place(const std::string& path) {
  std::error_code error;
  const std::filesystem::path real = std::filesystem::canonical(path, error);
  return error ? path : real.string();
}

// Beside the target, so that the rename stays within one file system.
std::string Draft(const std::string& place) { return absl::StrCat(place, ".", NewRequestId()); }

bool IsOrdinary(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) != 0 || S_ISREG(info.st_mode) || S_ISDIR(info.st_mode);
}

// 0, or the error. Closes `fd`.
int WriteAndClose(int fd, absl::Span<const absl::string_view> pieces) {
  int error = 0;
  for (absl::string_view piece : pieces) {
    while (!piece.empty() && error == 0) {
      const ssize_t written = write(fd, piece.data(), piece.size());
      if (written >= 0) {
        piece.remove_prefix(static_cast<size_t>(written));
      } else if (errno != EINTR) {
        error = errno;
      }
    }
  }
  if (close(fd) != 0 && error == 0) error = errno;
  return error;
}

}  // namespace

absl::Status WriteFileAtomically(const std::string& path,
                                 absl::Span<const absl::string_view> pieces) {
  if (!IsOrdinary(path)) {
    const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    const int error = fd < 0 ? errno : WriteAndClose(fd, pieces);
    return error == 0 ? absl::OkStatus() : NotWritten(path, error);
  }
  const std::string place = Place(path), draft = Draft(place);
  const int fd = open(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0) return NotWritten(path, errno);
  int error = WriteAndClose(fd, pieces);
  if (error == 0 && rename(draft.c_str(), place.c_str()) != 0) error = errno;
  if (error == 0) return absl::OkStatus();
  unlink(draft.c_str());
  return NotWritten(path, error);
}

absl::Status CheckWritable(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return NotWritten(path, "it is a folder");
  if (!IsOrdinary(path)) return absl::OkStatus();
  const std::string draft = Draft(Place(path));
  const int fd = open(draft.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0) return NotWritten(path, errno);
  close(fd);
  unlink(draft.c_str());
  return absl::OkStatus();
}

}  // namespace chord
