#include "common/obs/rotating_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"

namespace chord::obs {
namespace {

constexpr absl::Duration kCheckInterval = absl::Seconds(1);

// When a file that is there already was begun, as far as the file system knows.
absl::Time BegunAt(int fd, absl::Time otherwise) {
  struct statx info;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &info) != 0 || (info.stx_mask & STATX_BTIME) == 0) {
    return otherwise;
  }
  return absl::FromUnixSeconds(info.stx_btime.tv_sec);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RotatingFile>> RotatingFile::Open(const Options& options,
                                                                 absl::Time now) {
  std::unique_ptr<RotatingFile> out(new RotatingFile(options));
  if (out->Reopen(now)) return out;
  return errors::ConfigInvalid(
      absl::StrCat("Cannot write the log file ", options.path, ": ", std::strerror(errno), "."));
}

RotatingFile::~RotatingFile() { Close(); }

void RotatingFile::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

bool RotatingFile::Reopen(absl::Time now) {
  Close();
  fd_ = open(options_.path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
  if (fd_ < 0) return false;
  struct stat info {};
  if (fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
    Close();
    errno = EINVAL;
    return false;
  }
  bytes_ = info.st_size;
  begun_ = bytes_ == 0 ? now : BegunAt(fd_, now);
  checked_ = now;
  return true;
}

bool RotatingFile::IsStillThere() const {
  struct stat mine {
  }, there{};
  return fstat(fd_, &mine) == 0 && stat(options_.path.c_str(), &there) == 0 &&
         mine.st_ino == there.st_ino && mine.st_dev == there.st_dev;
}

void RotatingFile::Rotate() {
  for (int i = options_.keep; i > 0; --i) {
    const std::string from = i == 1 ? options_.path : absl::StrCat(options_.path, ".", i - 1);
    rename(from.c_str(), absl::StrCat(options_.path, ".", i).c_str());
  }
  if (options_.keep == 0) unlink(options_.path.c_str());
}

bool RotatingFile::Write(absl::string_view line, absl::Time now) {
  if (fd_ >= 0 && now - checked_ >= kCheckInterval) {
    checked_ = now;
    if (!IsStillThere()) Close();
  }
  const auto size = static_cast<int64_t>(line.size());
  if (fd_ >= 0 && bytes_ > 0 &&
      (bytes_ + size > options_.max_bytes || now - begun_ > options_.max_age)) {
    if (IsStillThere()) Rotate();  // else the older files stay as they are
    Close();
  }
  if (fd_ < 0 && !Reopen(now)) return false;
  const ssize_t written = write(fd_, line.data(), line.size());
  if (written == size) {
    bytes_ += size;
    return true;
  }
  // The disk is full. Half a line would spoil the next one.
  if (written > 0 && ftruncate(fd_, bytes_) != 0) Close();
  return false;
}

}  // namespace chord::obs
