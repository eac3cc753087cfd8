#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/timex.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "common/base/certificates.h"
#include "common/config/api_keys_file.h"
#include "services/cli/doctor_report.h"
#include "services/cli/install_paths.h"
#include "services/cli/serve/listen_address.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kOldestDriver = 580;  // of CUDA 13, which Chord is built with
constexpr absl::Duration kExpiresSoon = absl::Hours(14 * 24);

// The number that a file of one number holds; nullopt-like: -1 when there is none ("max").
int64_t NumberIn(const std::string& path) {
  std::ifstream file(path);
  int64_t out = 0;
  return file >> out ? out : -1;
}

// "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  …" -> 580; 0: not found.
int DriverOf(const std::string& text) {
  for (absl::string_view word : absl::StrSplit(text, absl::ByAnyChar(" \n\t"), absl::SkipEmpty())) {
    int major = 0;
    if (absl::StrContains(word, ".") && absl::SimpleAtoi(word.substr(0, word.find('.')), &major) &&
        major >= 100) {
      return major;
    }
  }
  return 0;
}

void CheckAddress(Report& report, const std::string& address, const char* option,
                  const char* what) {
  if (absl::StartsWith(address, "unix:")) return;
  const auto free = ReserveListenAddress(address, option);
  if (free.ok()) {
    report.Good(absl::StrCat("port ", address, " (", what, "): free"));
  } else {
    report.Warn(absl::StrCat("port ", address, " (", what, "): ", free.status().message()));
  }
}

// A secret that other users can read is none.
void CheckSecret(Report& report, const std::string& path, const char* what) {
  struct stat info {};
  if (stat(path.c_str(), &info) == 0 && (info.st_mode & S_IROTH) != 0) {
    report.Warn(
        absl::StrCat(what, ": every user of this host can read ", path, "; run chmod o-r on it."));
  }
}

void CheckCertificates(Report& report, const config::v1::Gateway& gateway) {
  if (gateway.tls_cert_file().empty()) return;
  const auto read = ReadCertificates(
      {gateway.tls_cert_file(), gateway.tls_key_file(), gateway.tls_client_ca_file()}, absl::Now());
  if (!read.ok()) return report.Bad(absl::StrCat("certificates: ", read.status().message()));
  const std::string day = absl::FormatTime("%Y-%m-%d", read->expires, absl::UTCTimeZone());
  if (read->expires - absl::Now() < kExpiresSoon) {
    report.Warn(absl::StrCat("certificates: valid only until ", day,
                             "; renew them. A running "
                             "gateway takes new files by itself."));
  } else {
    report.Good(absl::StrCat("certificates: valid until ", day));
  }
  CheckSecret(report, gateway.tls_key_file(), "certificates");
}

void CheckApiKeys(Report& report, const std::string& path) {
  if (path.empty()) return;
  const auto keys = config::ReadApiKeysFile(path);
  if (!keys.ok()) return report.Bad(absl::StrCat("API keys: ", keys.status().message()));
  const auto expired =
      std::count_if(keys->begin(), keys->end(),
                    [](const config::ApiKeyEntry& key) { return key.expires <= absl::Now(); });
  if (expired > 0) report.Warn(absl::StrCat("API keys: ", expired, " have expired"));
  report.Good(absl::StrCat("API keys: ", keys->size() - static_cast<size_t>(expired), " in use"));
}

}  // namespace

int64_t AvailableMemoryBytes() {
  int64_t available = std::numeric_limits<int64_t>::max();
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    int64_t kib = 0;
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipWhitespace());
    if (words.size() >= 2 && words[0] == "MemAvailable:" && absl::SimpleAtoi(words[1], &kib)) {
      available = kib << 10;
    }
  }
  const int64_t limit = NumberIn("/sys/fs/cgroup/memory.max");
  const int64_t used = NumberIn("/sys/fs/cgroup/memory.current");
  if (limit > 0 && used >= 0) available = std::min(available, std::max<int64_t>(0, limit - used));
  return available == std::numeric_limits<int64_t>::max() ? 0 : available;
}

void CheckDevice(Report& report) {
  std::error_code error;
  if (!fs::exists("/dev/nvidia0", error)) {
    return report.Good("device: no NVIDIA GPU is visible; both workers run on the CPU");
  }
  std::ifstream file("/proc/driver/nvidia/version");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const int driver = DriverOf(text);
  if (driver > 0 && driver < kOldestDriver) {
    return report.Warn(absl::StrCat("device: the NVIDIA driver ", driver, " is older than ",
                                    kOldestDriver,
                                    ", which CUDA 13 needs; update it, or the "
                                    "workers run on the CPU."));
  }
  if (access("/dev/nvidia0", R_OK | W_OK) != 0) {
    return report.Bad("device: this user may not use /dev/nvidia0; add it to the group that may.");
  }
  report.Good("device: an NVIDIA GPU is visible; --vision-device and --language-device choose");
}

void CheckAddresses(Report& report, const config::v1::Gateway& gateway) {
  const auto text = [](const std::string& address, const char* fallback) {
    return address.empty() ? std::string(fallback) : address;
  };
  CheckAddress(report, text(gateway.http_address(), "127.0.0.1:8080"), "http", "HTTP");
  CheckAddress(report, text(gateway.grpc_address(), "127.0.0.1:50051"), "grpc", "gRPC");
}

void CheckHost(Report& report) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur < 1024) {
    report.Warn(absl::StrCat("limits: only ", files.rlim_cur,
                             " open files; raise \"ulimit -n\" to 4096 or more."));
  } else {
    report.Good(absl::StrCat("limits: ", files.rlim_cur, " open files"));
  }
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  const std::string dir = runtime != nullptr ? runtime : "/tmp";
  if (access(dir.c_str(), W_OK | X_OK) != 0) {
    report.Bad(absl::StrCat("sockets: ", dir,
                            " cannot be written; set XDG_RUNTIME_DIR to a folder that can."));
  } else if (dir.size() > 60) {
    report.Bad("sockets: XDG_RUNTIME_DIR is too long for a unix socket; set it to a shorter path.");
  } else {
    report.Good(absl::StrCat("sockets: ", dir, " can be written"));
  }
}

void CheckFiles(Report& report, const config::v1::Settings& settings) {
  CheckCertificates(report, settings.gateway());
  CheckApiKeys(report, settings.gateway().api_keys_file());
  const std::string& log = settings.log().dir();
  if (log.empty()) return;
  if (access(log.c_str(), W_OK | X_OK) != 0) {
    return report.Bad(absl::StrCat("logs: this user cannot write in ", log,
                                   "; make the folder and give it to this user."));
  }
  std::error_code error;
  const fs::space_info space = fs::space(log, error);
  if (!error && space.available < (uint64_t{1} << 30)) {
    report.Warn(
        absl::StrFormat("logs: only %.1f GB are free in %s; lower log.keep or log.max_bytes.",
                        static_cast<double>(space.available) / 1e9, log));
  } else {
    report.Good(absl::StrCat("logs: ", log, " can be written"));
  }
}

// Certificates, expiry of keys and deadlines across hosts depend on it.
void CheckClock(Report& report) {
  struct stat program {};
  if (stat(Sibling("chord").c_str(), &program) == 0 &&
      absl::Now() + absl::Hours(24) < absl::FromTimeT(program.st_mtime)) {
    return report.Bad("clock: it is earlier than the day this program was installed; set it.");
  }
  timex state{};
  if (adjtimex(&state) == TIME_ERROR || (state.status & STA_UNSYNC) != 0) {
    return report.Warn(
        "clock: the system does not say that it is synchronised; certificates and logs want it to "
        "be (chrony, systemd-timesyncd).");
  }
  report.Good("clock: synchronised");
}

}  // namespace chord::cli
