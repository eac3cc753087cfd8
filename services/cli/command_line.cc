#include "services/cli/command_line.h"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace chord::cli {

struct CommandLine::Impl {
  std::string name;
  std::string group = "Options";
  ::CLI::App app;

  ::CLI::MultiOptionPolicy policy = ::CLI::MultiOptionPolicy::Throw;

  ::CLI::Option* Describe(::CLI::Option* option, const std::string& value) {
    return option->option_text(value)->group(group)->multi_option_policy(policy);
  }
};

namespace {

std::string Flag(const std::string& option) { return absl::StrCat("--", option); }

// CLI11's words for a missing and for a repeated value speak of its own types and counts.
std::string Explain(const ::CLI::ParseError& error) {
  const std::string text = error.what();
  const std::string option = text.substr(0, text.find(':'));
  if (absl::StrContains(text, "required TEXT missing"))
    return absl::StrCat(option, " needs a value");
  if (absl::StrContains(text, "At Most 1 required")) return absl::StrCat(option, " is given twice");
  return text;
}

}  // namespace

CommandLine::CommandLine(const std::string& name, const std::string& summary,
                         const std::string& epilog)
    : impl_(std::make_unique<Impl>()) {
  impl_->name = name;
  ::CLI::App& app = impl_->app;
  app.name(name);
  app.description(summary);
  app.footer(epilog);
  app.set_help_flag("-h,--help", "Print this help and exit");
  auto formatter = std::make_shared<::CLI::Formatter>();
  formatter->column_width(28);
  app.formatter(formatter);
}

CommandLine::~CommandLine() = default;

void CommandLine::Text(const std::string& option, std::string* out, const std::string& value,
                       const std::string& help) {
  impl_->Describe(impl_->app.add_option(Flag(option), *out, help), value);
}

void CommandLine::Integer(const std::string& option, int* out, int low, int high,
                          const std::string& help) {
  const ::CLI::Validator range(
      [low, high](std::string& text) -> std::string {
        int value = 0;
        if (::CLI::detail::lexical_cast(text, value) && value >= low && value <= high) return "";
        return absl::StrCat("must be an integer from ", low, " to ", high);
      },
      "");
  impl_->Describe(impl_->app.add_option(Flag(option), *out, help)->check(range), "N");
}

void CommandLine::Unsigned(const std::string& option, uint64_t* out, const std::string& help) {
  impl_->Describe(impl_->app.add_option(Flag(option), *out, help), "N");
}

void CommandLine::Number(const std::string& option, double* out, double low, double high,
                         const std::string& value, const std::string& help) {
  const ::CLI::Validator range(
      [low, high](std::string& text) -> std::string {
        double number = 0;
        if (::CLI::detail::lexical_cast(text, number) && number >= low && number <= high) return "";
        return absl::StrFormat("must be a number from %g to %g", low, high);
      },
      "");
  impl_->Describe(impl_->app.add_option(Flag(option), *out, help)->check(range), value);
}

void CommandLine::Choice(const std::string& option, std::string* out,
                         const std::vector<std::string>& choices, const std::string& help) {
  const ::CLI::Validator member(
      [choices](std::string& text) -> std::string {
        if (std::find(choices.begin(), choices.end(), text) != choices.end()) return "";
        return absl::StrCat("must be ", absl::StrJoin(choices, " or "));
      },
      "");
  impl_->Describe(impl_->app.add_option(Flag(option), *out, help)->check(member),
                  absl::StrJoin(choices, "|"));
}

void CommandLine::Switch(const std::string& option, bool* out, const std::string& help) {
  // The type has no value: "--json=1" is an error, and so is giving the switch twice.
  impl_->app.add_flag(Flag(option), *out, help)
      ->group(impl_->group)
      ->disable_flag_override()
      ->multi_option_policy(::CLI::MultiOptionPolicy::Throw);
}

void CommandLine::Repeated(const std::string& option, std::vector<std::string>* out,
                           const std::string& value, const std::string& help) {
  impl_->Describe(
      impl_->app.add_option(Flag(option), *out, help)->allow_extra_args(false)->take_all(), value);
}

void CommandLine::Positional(const std::string& name, std::string* out, const std::string& help,
                             bool required) {
  impl_->app.add_option(name, *out, help)->required(required)->option_text("");
}

void CommandLine::AllowOverrides() { impl_->policy = ::CLI::MultiOptionPolicy::TakeLast; }

void CommandLine::Group(const std::string& heading) { impl_->group = heading; }

bool CommandLine::Has(const std::string& name) const {
  const bool positional = impl_->app.get_option_no_throw(name) != nullptr;
  return impl_->app.count(positional ? name : Flag(name)) > 0;
}

std::optional<int> CommandLine::Parse(const std::vector<std::string>& args) {
  try {
    std::vector<std::string> reversed(args.rbegin(), args.rend());  // CLI11 takes them so
    impl_->app.parse(reversed);
    return std::nullopt;
  } catch (const ::CLI::CallForHelp&) {
    std::fputs(impl_->app.help().c_str(), stdout);
    return kExitOk;
  } catch (const ::CLI::ParseError& error) {
    return Fail(absl::StrCat(Explain(error), "; see ", impl_->name, " --help."), kExitUsage);
  }
}

int CommandLine::Fail(absl::string_view message, int code) const {
  std::fprintf(stderr, "%s: %.*s\n", impl_->name.c_str(), static_cast<int>(message.size()),
               message.data());
  return code;
}

}  // namespace chord::cli
