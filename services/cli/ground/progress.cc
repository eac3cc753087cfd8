#include "services/cli/ground/progress.h"

#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_cat.h"

namespace chord::cli {
namespace {

constexpr size_t kBarWidth = 30;
constexpr char kClearLine[] = "\r\033[K";

}  // namespace

Progress::Progress(size_t total) : total_(total), terminal_(isatty(STDERR_FILENO) != 0) {}

void Progress::Print(const std::string& text) {
  if (terminal_) std::fputs(kClearLine, stderr);
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);  // a reader of the pipe, or Ctrl-C, finds every answer so far
}

void Progress::Show(size_t done, size_t failed) {
  if (!terminal_) return;
  const size_t filled = done * kBarWidth / total_;
  std::fprintf(stderr, "\r[%s%s] %zu/%zu%s", std::string(filled, '#').c_str(),
               std::string(kBarWidth - filled, '.').c_str(), done, total_,
               failed == 0 ? "" : absl::StrCat(", ", failed, " failed").c_str());
  std::fflush(stderr);
}

void Progress::End(size_t failed, size_t truncated, size_t skipped) {
  if (terminal_) std::fputs(kClearLine, stderr);
  std::string line =
      absl::StrCat(total_ - failed, " of ", total_, " images answered, ", failed, " failed");
  if (truncated > 0) absl::StrAppend(&line, ", ", truncated, " cut at --max-new-tokens");
  if (skipped > 0) {
    absl::StrAppend(&line, "; ", skipped, skipped == 1 ? " other file" : " other files",
                    " skipped (not JPEG, PNG or WebP)");
  }
  std::fprintf(stderr, "%s\n", line.c_str());
}

}  // namespace chord::cli
