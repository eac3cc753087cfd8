#include "common/base/cpu_limit.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace chord {
namespace {

constexpr char kMount[] = "/sys/fs/cgroup";

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

void TakeLess(const std::optional<double>& limit, std::optional<double>* least) {
  if (limit && (!*least || *limit < **least)) *least = limit;
}

std::optional<double> LimitOf(const std::string& folder) {
  if (const auto limit = ParseCpuMax(FirstLine(absl::StrCat(folder, "/cpu.max")))) return limit;
  return ParseCpuMax(absl::StrCat(FirstLine(absl::StrCat(folder, "/cpu.cfs_quota_us")), " ",
                                  FirstLine(absl::StrCat(folder, "/cpu.cfs_period_us"))));
}

// This process's group: v2's line is "0::/path", v1's has cpu among the controllers.
std::string OwnGroup() {
  std::ifstream file("/proc/self/cgroup");
  std::string group;
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    const bool cpu = std::count(controllers.begin(), controllers.end(), "cpu") > 0;
    if (cpu || parts[1].empty()) group = parts[2];
    if (cpu) break;
  }
  return group;
}

}  // namespace

std::optional<double> ParseCpuMax(absl::string_view text) {
  const std::vector<absl::string_view> parts =
      absl::StrSplit(absl::StripAsciiWhitespace(text), ' ');
  int64_t quota = 0, period = 0;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &quota) ||
      !absl::SimpleAtoi(parts[1], &period) || quota <= 0 || period <= 0) {
    return std::nullopt;
  }
  return static_cast<double>(quota) / static_cast<double>(period);
}

std::optional<double> CgroupCpus(const std::string& mount, absl::string_view group) {
  std::optional<double> least;
  for (const std::string& root : {mount, absl::StrCat(mount, "/cpu")}) {
    TakeLess(LimitOf(root), &least);
    for (absl::string_view rest = group; !rest.empty() && rest != "/";
         rest = rest.substr(0, rest.rfind('/'))) {
      // Inside a container the path may be that of the host; then there is no such folder.
      TakeLess(LimitOf(absl::StrCat(root, rest)), &least);
    }
  }
  return least;
}

int UsableCpus() {
  cpu_set_t set;
  int cpus = sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
  if (const auto limit = CgroupCpus(kMount, OwnGroup())) {
    cpus = std::min(cpus, std::max(1, static_cast<int>(std::ceil(*limit - 1e-6))));
  }
  return cpus;
}

}  // namespace chord
