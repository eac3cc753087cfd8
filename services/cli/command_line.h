// The command line of one subcommand: options are bound to variables, checked against their range,
// and described once, for parsing and for --help. A thin layer over CLI11, which stays in the .cc.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace chord::cli {

// Exit codes of all subcommands.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;     // the work failed
inline constexpr int kExitUsage = 2;      // the command line or the settings are wrong
inline constexpr int kExitTruncated = 3;  // done, but an answer was cut at max_new_tokens

// The variables that options are bound to are not owned; they keep their value when the option is
// not given, and must outlive Parse. Not thread-safe.
class CommandLine {
 public:
  // `name` as typed ("chord ground"), `summary` one or more sentences, `epilog` printed last.
  CommandLine(const std::string& name, const std::string& summary, const std::string& epilog = "");
  ~CommandLine();

  // Options are named without dashes: "max-new-tokens". `value` names the value in the help text.
  void Text(const std::string& option, std::string* out, const std::string& value,
            const std::string& help);
  void Integer(const std::string& option, int* out, int low, int high, const std::string& help);
  void Unsigned(const std::string& option, uint64_t* out, const std::string& help);
  void Number(const std::string& option, double* out, double low, double high,
              const std::string& value, const std::string& help);
  void Choice(const std::string& option, std::string* out, const std::vector<std::string>& choices,
              const std::string& help);
  void Switch(const std::string& option, bool* out, const std::string& help);
  // May be given any number of times.
  void Repeated(const std::string& option, std::vector<std::string>* out, const std::string& value,
                const std::string& help);
  // Positional arguments, in the order of these calls. One that is not required comes last, and is
  // empty when it is not given.
  void Positional(const std::string& name, std::string* out, const std::string& help,
                  bool required = true);
  // From here on a later value of the same option replaces an earlier one; otherwise giving an
  // option twice is an error.
  void AllowOverrides();
  // Options that follow are listed under this heading.
  void Group(const std::string& heading);

  // Whether an option or a positional argument was given.
  bool Has(const std::string& name) const;

  // nullopt: go on. Otherwise the exit code: kExitOk after --help, kExitUsage after an error, which
  // has been printed to standard error as one sentence.
  std::optional<int> Parse(const std::vector<std::string>& args);

  // Prints "NAME: message" to standard error; returns `code`.
  int Fail(absl::string_view message, int code) const;

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace chord::cli
