// `chord mcp`, a subcommand; see commands.h for the exit codes.
#pragma once

#include <string>
#include <vector>

namespace chord::cli {

// `version`: of Chord, told to the client.
int RunMcp(const std::vector<std::string>& args, const std::string& version);

}  // namespace chord::cli
