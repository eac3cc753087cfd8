// A log file that is replaced by a new one when it is large or old: NAME becomes NAME.1, NAME.1
// becomes NAME.2, and the oldest is removed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace chord::obs {

// Not thread-safe. One writer a file: two processes never share one.
class RotatingFile {
 public:
  struct Options {
    std::string path;
    int64_t max_bytes = 64LL << 20;  // a file does not grow beyond it, but for one longer line
    absl::Duration max_age = absl::Hours(24);
    int keep = 7;  // older files; the oldest is removed
  };
  // Opens for appending. CONFIG_INVALID with the system's reason when it cannot be written.
  static absl::StatusOr<std::unique_ptr<RotatingFile>> Open(const Options& options, absl::Time now);
  ~RotatingFile();
  RotatingFile(const RotatingFile&) = delete;
  RotatingFile& operator=(const RotatingFile&) = delete;

  // Appends a line, whole or not at all. False when it could not be written (a full disk, a folder
  // that was removed); the next call tries again. A file that something else has renamed or removed
  // is noticed within a second of the next write, and a new one begun.
  bool Write(absl::string_view line, absl::Time now);

 private:
  explicit RotatingFile(Options options) : options_(std::move(options)) {}
  bool Reopen(absl::Time now);
  bool IsStillThere() const;
  void Rotate();
  void Close();

  const Options options_;
  int fd_ = -1;
  int64_t bytes_ = 0;
  absl::Time begun_, checked_;
};

}  // namespace chord::obs
