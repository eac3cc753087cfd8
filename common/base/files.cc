#include "common/base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"

namespace chord {
namespace {

constexpr absl::string_view kLfsMagic = "version https://git-lfs.github.com/spec/";

std::string Join(const std::string& dir, absl::string_view name) {
  return absl::StrCat(dir, "/", name);
}

absl::Status Refuse(absl::string_view name, absl::string_view why) {
  return errors::CheckpointInvalid(absl::StrCat(Printable(name), ": ", why));
}

absl::Status RefuseErrno(absl::string_view name, absl::string_view doing, int error) {
  return Refuse(name, absl::StrCat("cannot ", doing, ": ", strerror(error)));
}

absl::Status CheckNotLfsPointer(absl::string_view name, absl::string_view head) {
  if (!absl::StartsWith(head, kLfsMagic)) return absl::OkStatus();
  return Refuse(name,
                "this is a git-lfs pointer, not the file itself. Run 'git lfs pull' in the folder, "
                "or download the file again.");
}

// -1 with ENOENT when absent. O_NONBLOCK: opening a pipe must not wait for its writer.
absl::StatusOr<int> OpenRegular(const std::string& dir, absl::string_view name, int64_t* size) {
  const int fd = open(Join(dir, name).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const int error = errno;
    if (error != ENOENT) return RefuseErrno(name, "open it", error);
    if (FileExists(dir, name)) return Refuse(name, "is a link to a file that does not exist");
    return -1;
  }
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return Refuse(name, "is not a regular file");
  }
  if (info.st_size == 0) {
    close(fd);
    return Refuse(name, "is empty (0 bytes), so its download did not finish. Download it again.");
  }
  *size = info.st_size;
  return fd;
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& dir, absl::string_view name) {
  int64_t size = 0;
  CHORD_ASSIGN_OR_RETURN(const int fd, OpenRegular(dir, name, &size));
  if (fd < 0) return Refuse(name, "the file is missing");
  const auto closer = absl::MakeCleanup([fd] { close(fd); });
  void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (data == MAP_FAILED) return RefuseErrno(name, "map it", errno);
  MappedFile file(static_cast<const std::byte*>(data), size);
  // A file that is still being copied would fault behind its end.
  struct stat info;
  if (fstat(fd, &info) != 0 || info.st_size != size) {
    return Refuse(name, "changed its size while it was opened; is it still being copied?");
  }
  const absl::string_view head(static_cast<const char*>(data),
                               std::min<int64_t>(size, kLfsMagic.size()));
  CHORD_RETURN_IF_ERROR(CheckNotLfsPointer(name, head));
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

absl::StatusOr<std::optional<std::string>> ReadOptionalFile(const std::string& dir,
                                                            absl::string_view name, int64_t limit) {
  int64_t size = 0;
  CHORD_ASSIGN_OR_RETURN(const int fd, OpenRegular(dir, name, &size));
  if (fd < 0) return std::nullopt;
  const auto closer = absl::MakeCleanup([fd] { close(fd); });
  if (size > limit) {
    return Refuse(name, absl::StrCat("has ", size, " bytes; the limit is ", limit));
  }
  std::string text(size, '\0');
  int64_t done = 0;
  while (done < size) {
    const ssize_t n = read(fd, text.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return RefuseErrno(name, "read it", errno);
    if (n == 0) return Refuse(name, "became shorter while it was read");
    done += n;
  }
  CHORD_RETURN_IF_ERROR(CheckNotLfsPointer(name, text));
  return text;
}

bool FileExists(const std::string& dir, absl::string_view name) {
  struct stat info;
  return lstat(Join(dir, name).c_str(), &info) == 0;
}

absl::Status CheckFolder(const std::string& dir) {
  struct stat info;
  if (stat(dir.c_str(), &info) != 0) {
    return errors::CheckpointInvalid(
        absl::StrCat("The model folder ", Printable(dir), " cannot be read: ", strerror(errno)));
  }
  if (S_ISDIR(info.st_mode)) return absl::OkStatus();
  return errors::CheckpointInvalid(absl::StrCat(Printable(dir), " is not a folder"));
}

bool IsPlainFileName(absl::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find('/') == name.npos && name.find('\0') == name.npos;
}

std::string Printable(absl::string_view name) {
  constexpr size_t kMax = 120;
  std::string out = absl::Utf8SafeCHexEscape(name.substr(0, kMax));
  if (name.size() > kMax) out += "...";
  return out;
}

}  // namespace chord
