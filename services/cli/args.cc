#include "services/cli/args.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"

namespace chord::cli {

std::string Args::Get(const std::string& name, const std::string& fallback) const {
  const auto it = values.find(name);
  return it == values.end() ? fallback : it->second;
}

absl::StatusOr<Args> ParseArgs(absl::Span<const std::string> args,
                               absl::Span<const FlagSpec> specs) {
  Args out;
  bool only_positional = false;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    if (arg == "--" && !only_positional) {
      only_positional = true;
      continue;
    }
    if (only_positional || arg.size() < 2 || arg[0] != '-') {
      out.positional.push_back(arg);
      continue;
    }
    const size_t equals = arg.find('=');
    const std::string name = arg == "-h" ? "--help" : arg.substr(0, equals);
    const FlagSpec* spec = nullptr;
    for (const FlagSpec& s : specs) {
      if (absl::StrCat("--", s.name) == name) spec = &s;
    }
    if (spec == nullptr) {
      return errors::ConfigInvalid(absl::StrCat("There is no option ", name, "; see --help."));
    }
    std::string value;
    if (equals != std::string::npos) {
      if (!spec->takes_value) {
        return errors::ConfigInvalid(absl::StrCat(name, " takes no value; see --help."));
      }
      value = arg.substr(equals + 1);
    } else if (spec->takes_value) {
      if (i + 1 >= args.size()) {
        return errors::ConfigInvalid(absl::StrCat(name, " needs a value; see --help."));
      }
      value = args[++i];
    }
    if (!out.values.emplace(spec->name, value).second) {
      return errors::ConfigInvalid(absl::StrCat(name, " is given twice."));
    }
  }
  return out;
}

}  // namespace chord::cli
