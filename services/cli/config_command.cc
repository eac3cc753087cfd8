// `chord config`: what is in force and where it comes from; whether a settings file is good; what
// there is to set.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/config/settings.h"
#include "services/cli/command_line.h"
#include "services/cli/commands.h"
#include "services/cli/serve/one_host.h"

namespace chord::cli {
namespace {

constexpr char kReferenceTop[] =
    "# Settings\n"
    "\n"
    "One YAML file configures all processes: `--config FILE` or the variable `CHORD_CONFIG` names "
    "it, "
    "for `chord serve` and for\n"
    "`chord_gateway`, `chord_vision_worker` and `chord_llm_worker` started one by one. Each "
    "process "
    "reads the common settings\n"
    "and its own section. A key that is no setting, a key given twice and a value of the wrong "
    "type "
    "are errors, which name the\n"
    "line; the process then ends with exit code 2.\n"
    "\n"
    "```yaml\n"
    "model_dir: /srv/models/chord-nano\n"
    "log: {level: info}\n"
    "gateway:\n"
    "  http_address: 0.0.0.0:8080\n"
    "  max_in_flight: 32\n"
    "vision_worker: {device: \"cuda:0\"}\n"
    "llm_worker: {device: cpu, threads: 8}\n"
    "```\n"
    "\n"
    "Each setting is also an environment variable, `CHORD_` and its path in upper case with `_` "
    "for "
    "`.`\n"
    "(`CHORD_LOG_LEVEL`, `CHORD_GATEWAY_MAX_IN_FLIGHT`; the values of a list are separated by "
    "commas), and a flag: `--set\n"
    "gateway.max_in_flight=32` of `chord serve`; `--max_in_flight=32` or `--log.level=debug` of "
    "the "
    "single programs. Flags win\n"
    "over variables, variables over the file. 0, an empty text and a key without a value stand for "
    "the default. Numbers of bytes\n"
    "may end in `KiB`, `MiB` or `GiB`.\n"
    "\n"
    "`chord serve` reads the settings once, at its start, and decides itself how its processes "
    "reach "
    "each other: addresses and\n"
    "peers of workers in the file are for processes on several hosts.\n"
    "\n"
    "`chord config print` shows every value in force and where it comes from, `chord config check "
    "FILE` checks a file without\n"
    "starting anything. The tables below are `chord config reference`.\n"
    "\n";

int Print(const std::vector<std::string>& args) {
  std::string file;
  std::vector<std::string> settings;
  CommandLine line(
      "chord config print",
      "Prints all settings as chord serve would read them: each value, and as a comment "
      "where it\ncomes from. The output is a settings file.");
  line.Text("config", &file, "FILE", "Settings file (default: $CHORD_CONFIG)");
  line.Repeated("set", &settings, "NAME=VALUE", "A setting by its path; repeatable");
  if (const std::optional<int> code = line.Parse(args)) return *code;
  config::Sources sources;
  if (line.Has("config")) sources.args.push_back(absl::StrCat("--config=", file));
  for (const std::string& setting : settings) sources.args.push_back(absl::StrCat("--", setting));
  sources.environment = config::Environment();
  const absl::StatusOr<config::LoadedSettings> loaded = config::LoadSettings(sources);
  if (!loaded.ok()) return line.Fail(loaded.status().message(), kExitUsage);
  for (const std::string& variable : loaded->unknown_variables) {
    std::fprintf(stderr, "chord config print: the variable %s is not a setting.\n",
                 variable.c_str());
  }
  std::fputs(config::Explain(*loaded).c_str(), stdout);
  return kExitOk;
}

// A file without a name that children can open.
absl::StatusOr<int> WriteToMemory(const std::string& text) {
  const int fd = memfd_create("settings", 0);
  if (fd < 0 || write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return errors::ConfigInvalid("There is no memory for the settings.");
  }
  return fd;
}

// What the program says about the settings; empty: they are good.
std::string AskProgram(const ChildProcess& process) {
  int out[2];
  if (pipe2(out, O_CLOEXEC) != 0) return "no descriptors are left.\n";
  std::vector<std::string> command = process.command;
  command.push_back("--check_settings");
  std::vector<char*> argv;
  for (std::string& part : command) argv.push_back(part.data());
  argv.push_back(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(out[1], 2);
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(out[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(out[0], buffer, sizeof(buffer))) > 0;) {
    text.append(buffer, static_cast<size_t>(n));
  }
  close(out[0]);
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) < 0) return "it cannot be started.\n";
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
  return text.empty() ? "it cannot be started.\n" : text;
}

absl::StatusOr<bool> CheckFile(const std::string& file) {
  CHORD_ASSIGN_OR_RETURN(
      config::LoadedSettings loaded,
      config::LoadSettings(
          {.args = {absl::StrCat("--config=", file)}, .section = "", .environment = {}}));
  config::UnsetVariables();
  CHORD_RETURN_IF_ERROR(CompleteForOneHost("/run/chord", &loaded.values));
  CHORD_ASSIGN_OR_RETURN(const int fd, WriteToMemory(config::ToYamlFile(loaded.values)));
  const absl::Cleanup close_fd = [fd] { close(fd); };
  CHORD_RETURN_IF_ERROR(SupervisorOptions(loaded.values.serve()).status());
  const std::vector<ChildProcess> processes =
      OneHostProcesses(absl::StrCat("/proc/self/fd/", fd), loaded.values);
  CHORD_RETURN_IF_ERROR(CheckPrograms(processes));
  bool good = true;
  for (const ChildProcess& process : processes) {
    const std::string problem = AskProgram(process);
    if (problem.empty()) continue;
    good = false;
    std::fprintf(stderr, "%s: %s: %s", file.c_str(), process.role.c_str(), problem.c_str());
  }
  return good;
}

int Check(const std::vector<std::string>& args) {
  std::string file;
  CommandLine line(
      "chord config check",
      "Checks a settings file as chord serve would take it, without starting anything.",
      "Exit code: 0 when it is good, 2 when it is not; standard error says why.");
  line.Positional("FILE", &file, "The settings file");
  if (const std::optional<int> code = line.Parse(args)) return *code;
  const absl::StatusOr<bool> good = CheckFile(file);
  if (!good.ok()) return line.Fail(good.status().message(), kExitUsage);
  if (!*good) return kExitUsage;
  std::printf("%s is good.\n", file.c_str());
  return kExitOk;
}

}  // namespace

int RunConfig(const std::vector<std::string>& args) {
  const std::string command = args.empty() ? "" : args[0];
  const std::vector<std::string> rest(args.begin() + (args.empty() ? 0 : 1), args.end());
  if (command == "print") return Print(rest);
  if (command == "check") return Check(rest);
  if (command == "reference" && rest.empty()) {
    std::fputs(kReferenceTop, stdout);
    std::fputs(config::Reference().c_str(), stdout);
    return kExitOk;
  }
  const bool help = command == "--help" || command == "-h";
  std::fputs(
      "chord config: the settings of all processes (docs/settings.md)\n"
      "\n"
      "  chord config print      every value in force, and where it comes from\n"
      "  chord config check      whether a settings file is good\n"
      "  chord config reference  docs/settings.md\n",
      help ? stdout : stderr);
  return help ? kExitOk : kExitUsage;
}

}  // namespace chord::cli
