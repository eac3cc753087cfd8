// The subcommands. Each returns the exit code: 0 done, 1 the work failed, 2 the command line or the
// settings are wrong.
#pragma once

#include <string>
#include <vector>

namespace chord::cli {

int RunServe(const std::vector<std::string>& args);
int RunGround(const std::vector<std::string>& args);
int RunEval(const std::vector<std::string>& args);
int RunCalibrate(const std::vector<std::string>& args);
int RunConfig(const std::vector<std::string>& args);
int RunKeys(const std::vector<std::string>& args);
int RunDoctor(const std::vector<std::string>& args);
int RunBenchCommand(const std::vector<std::string>& args);

}  // namespace chord::cli
