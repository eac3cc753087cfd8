// Reading an operator's model folder. Files may be links (the Hugging Face cache is made of them),
// but must be regular files in the end; nothing here blocks on a pipe or follows a name upwards.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace chord {

// A file mapped privately and read-only; unmapped when destroyed. Shrinking a mapped file in place
// takes the process down: model folders are replaced by rename, never rewritten.
class MappedFile {
 public:
  // CHECKPOINT_INVALID: absent, empty, not a regular file, not readable, changed while being
  // mapped, or a git-lfs pointer in place of the content.
  static absl::StatusOr<MappedFile> Open(const std::string& dir, absl::string_view name);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  absl::Span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedFile(const std::byte* data, size_t size) : data_(data), size_(size) {}
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// The whole of a small text file; nullopt when there is none. CHECKPOINT_INVALID when it is larger
// than `limit` bytes, and as above.
absl::StatusOr<std::optional<std::string>> ReadOptionalFile(const std::string& dir,
                                                            absl::string_view name, int64_t limit);

// True when the folder has an entry of that name, be it a dangling link.
bool FileExists(const std::string& dir, absl::string_view name);

// OK when `dir` is a folder.
absl::Status CheckFolder(const std::string& dir);

// One plain file name: not empty, no slash, no NUL, not "." or "..", at most 255 bytes.
bool IsPlainFileName(absl::string_view name);

// `name` as it may stand in a message: printable, cut after 120 bytes.
std::string Printable(absl::string_view name);

}  // namespace chord
