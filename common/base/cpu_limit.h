// How many processors this process may use at once.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace chord {

// The processors of its affinity mask, or fewer where a control group grants it less time (a
// container with --cpus, a pod with a CPU limit): whole processors, rounded up, at least 1.
int UsableCpus();

// The pieces of it, for tests.
//
// "QUOTA PERIOD" of cgroup v2's cpu.max in processors; nullopt for "max" and for anything else.
std::optional<double> ParseCpuMax(absl::string_view text);
// The least limit on the way from a group to the root of the hierarchy. `mount` is where cgroup v2
// is mounted, `group` the process's own group as /proc/self/cgroup has it ("/a/b"). v1's
// cpu.cfs_quota_us and cpu.cfs_period_us of `mount`/cpu are read where there is no cpu.max.
std::optional<double> CgroupCpus(const std::string& mount, absl::string_view group);

}  // namespace chord
