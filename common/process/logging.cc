#include "common/process/logging.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/obs/rotating_file.h"

namespace chord::process {
namespace {

absl::Status Range(absl::string_view name, double value, double low, double high) {
  if (value == 0 || (value >= low && value <= high)) return absl::OkStatus();
  return errors::ConfigInvalid(absl::StrCat("The setting log.", name, " must be between ",
                                            static_cast<int64_t>(low), " and ",
                                            static_cast<int64_t>(high), "."));
}

}  // namespace

absl::Status CheckLogSettings(const config::v1::Log& settings) {
  CHORD_RETURN_IF_ERROR(obs::ParseLogLevel(settings.level()).status());
  CHORD_RETURN_IF_ERROR(
      Range("max_bytes", static_cast<double>(settings.max_bytes()), 4096, int64_t{1} << 40));
  CHORD_RETURN_IF_ERROR(Range("max_age_seconds", settings.max_age_seconds(), 1, 31'536'000));
  return Range("keep", settings.keep(), 1, 1000);
}

absl::Status StartLogging(const config::v1::Log& settings, obs::Role role, obs::Metrics* metrics) {
  CHORD_RETURN_IF_ERROR(CheckLogSettings(settings));
  obs::LogOptions log;
  log.role = role;
  log.metrics = metrics;
  CHORD_ASSIGN_OR_RETURN(log.level, obs::ParseLogLevel(settings.level()));
  if (!settings.dir().empty()) {
    obs::RotatingFile::Options file;
    file.path = absl::StrCat(settings.dir(), "/", Name(role), ".log");
    if (settings.max_bytes() > 0) file.max_bytes = settings.max_bytes();
    if (settings.max_age_seconds() > 0) file.max_age = absl::Seconds(settings.max_age_seconds());
    if (settings.keep() > 0) file.keep = settings.keep();
    CHORD_ASSIGN_OR_RETURN(log.file, obs::RotatingFile::Open(file, absl::Now()));
  }
  obs::StartLog(log);
  return absl::OkStatus();
}

}  // namespace chord::process
