// The lines that `chord doctor` prints. Internal to the command.
#pragma once

#include <cstdio>
#include <string>

#include "absl/strings/string_view.h"
#include "chord/config/v1/config.pb.h"

namespace chord::cli {

class Report {
 public:
  void Good(absl::string_view what) { Line("ok  ", what); }
  void Warn(absl::string_view what) { Line("warn", what); }
  void Bad(absl::string_view what) {
    Line("FAIL", what);
    failed_ = true;
  }
  bool failed() const { return failed_; }

 private:
  static void Line(const char* mark, absl::string_view what) {
    std::printf("%s  %.*s\n", mark, static_cast<int>(what.size()), what.data());
  }
  bool failed_ = false;
};

// Memory that processes can still take: the host's, or what the container's limit leaves.
int64_t AvailableMemoryBytes();

// What surrounds the processes, as far as the settings name it: ports, limits, folders, files of
// certificates and keys, the clock, the GPU's driver.
void CheckDevice(Report& report);
void CheckAddresses(Report& report, const config::v1::Gateway& gateway);
void CheckHost(Report& report);
void CheckFiles(Report& report, const config::v1::Settings& settings);
void CheckClock(Report& report);

}  // namespace chord::cli
