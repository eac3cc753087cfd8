// The flags of the `chord` command: "--name value", "--name=value", switches, positionals.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace chord::cli {

struct Args {
  std::vector<std::string> positional;
  std::map<std::string, std::string> values;  // switches have the value ""
  bool Has(const std::string& name) const { return values.count(name) > 0; }
  std::string Get(const std::string& name, const std::string& fallback = "") const;
};

struct FlagSpec {
  std::string name;
  bool takes_value = true;
};

// CONFIG_INVALID names the first flag that is not in `specs`, lacks its value or comes twice.
absl::StatusOr<Args> ParseArgs(absl::Span<const std::string> args,
                               absl::Span<const FlagSpec> specs);

}  // namespace chord::cli
