// Progress of a batch on the terminal. Answers go to standard output and the bar to standard error;
// where both are one terminal, the bar makes room for the answers.
#pragma once

#include <cstddef>
#include <string>

namespace chord::cli {

// Not thread-safe.
class Progress {
 public:
  explicit Progress(size_t total);

  void Print(const std::string& text);  // to standard output
  void Show(size_t done, size_t failed);
  // The last line, also where standard error is no terminal. `skipped`: files of other kinds.
  void End(size_t failed, size_t truncated, size_t skipped);

 private:
  const size_t total_;
  const bool terminal_;
};

}  // namespace chord::cli
