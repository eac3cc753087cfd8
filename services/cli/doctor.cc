// `chord doctor`: looks at everything an installation needs and says how to fix it.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/config/settings.h"
#include "common/model/checkpoint.h"
#include "common/model/model_config.h"
#include "common/model/prompt.h"
#include "common/model/tokenizer.h"
#include "services/cli/command_line.h"
#include "services/cli/commands.h"
#include "services/cli/doctor_report.h"
#include "services/cli/install_paths.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;

void CheckPrograms(Report& report) {
  std::string missing;
  for (const char* name :
       {"chord_gateway", "chord_vision_worker", "chord_llm_worker", "chord-inspect"}) {
    if (access(Sibling(name).c_str(), X_OK) != 0) absl::StrAppend(&missing, " ", name);
  }
  if (missing.empty()) {
    report.Good("programs: gateway, vision worker, language worker, inspect");
  } else {
    report.Bad(
        absl::StrCat("programs: not beside chord:", missing, ". Build or install all of Chord."));
    return;
  }
  // The workers need libtorch at start; inspect needs the same and does nothing with --help.
  const pid_t pid = fork();
  if (pid == 0) {
    const int null = open("/dev/null", O_RDWR);
    dup2(null, 1);
    dup2(null, 2);
    execl(Sibling("chord-inspect").c_str(), "chord-inspect", "--help", nullptr);
    _exit(127);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    report.Good("libtorch: found by the workers");
  } else {
    report.Bad("libtorch: the workers cannot load it. Run tools/setup.sh and build again.");
  }
}

void CheckModel(Report& report, const std::string& dir) {
  const auto config = model::LoadModelConfig(dir);
  if (!config.ok()) {
    report.Bad(absl::StrCat("model ", dir, ": ", config.status().message()));
    return;
  }
  bool whole = true;
  auto check = [&](const absl::Status& status) {
    if (status.ok()) return;
    report.Bad(absl::StrCat("model ", dir, ": ", status.message()));
    whole = false;
  };
  check(model::Tokenizer::Load((fs::path(dir) / "tokenizer.json").string()).status());
  check(model::LoadChatTemplate(dir).status());
  const auto checkpoint = model::Checkpoint::Open(dir);
  check(checkpoint.status());
  if (!whole) return;
  std::vector<std::string> warnings;
  check(model::VerifyTensors(**checkpoint, *config, model::ModelPart::kBoth, &warnings));
  if (!whole) return;
  for (const std::string& warning : warnings) report.Warn(absl::StrCat("model: ", warning));
  const int64_t bytes = (*checkpoint)->total_bytes();
  report.Good(
      absl::StrFormat("model: %s, %d layers, hidden size %d, vocabulary %d, %.0f MB of weights",
                      fs::path(dir).filename().string(), config->text.num_hidden_layers,
                      config->text.hidden_size, config->text.vocab_size, bytes / 1e6));
  const int64_t free = AvailableMemoryBytes();
  // On the CPU, weights that are stored as bf16 and computed in fp32 double.
  if (free > 0 && free < 2 * bytes + (1LL << 30)) {
    report.Warn(absl::StrFormat(
        "memory: %.1f GB available; this model on the CPU in fp32 may need %.1f GB. Use --dtype "
        "bf16, a GPU, or a smaller model.",
        free / 1e9, (2.0 * bytes + (1LL << 30)) / 1e9));
  } else {
    report.Good(absl::StrFormat("memory: %.1f GB available", free / 1e9));
  }
}

}  // namespace

int RunDoctor(const std::vector<std::string>& args) {
  std::string model, file;
  std::vector<std::string> flags;
  CommandLine line("chord doctor",
                   "Checks settings, programs, model, memory, device and driver, ports, limits, "
                   "permissions,\ncertificates and clock of this host and says how to fix what is "
                   "wrong.",
                   "Exit code: 0 when Chord can serve, 1 otherwise, 2 wrong command line.");
  line.Text("config", &file, "FILE", "Settings file (default: $CHORD_CONFIG)");
  line.Repeated("set", &flags, "NAME=VALUE", "A setting by its path; repeatable");
  line.Text("model", &model, "DIR", "The model to check (default: the settings', else chord-nano)");
  if (const std::optional<int> code = line.Parse(args)) return *code;
  Report report;
  config::Sources sources;
  sources.environment = config::Environment();
  if (line.Has("config")) sources.args.push_back(absl::StrCat("--config=", file));
  for (const std::string& flag : flags) sources.args.push_back(absl::StrCat("--", flag));
  const absl::StatusOr<config::LoadedSettings> loaded = config::LoadSettings(sources);
  config::v1::Settings settings;
  if (loaded.ok()) {
    settings = loaded->values;
    if (!loaded->file.empty()) report.Good(absl::StrCat("settings: ", loaded->file));
  } else {
    report.Bad(absl::StrCat("settings: ", loaded.status().message()));
  }
  CheckPrograms(report);
  if (model.empty()) model = settings.llm_worker().model_dir();
  if (model.empty()) model = DefaultModelDir();
  if (model.empty()) {
    report.Bad("model: chord-nano is not beside this installation; give --model DIR.");
  } else {
    CheckModel(report, model);
  }
  CheckDevice(report);
  CheckAddresses(report, settings.gateway());
  CheckHost(report);
  CheckFiles(report, settings);
  CheckClock(report);
  std::puts(report.failed() ? "Chord cannot serve yet; fix what is marked FAIL."
                            : "Chord can serve.");
  return report.failed() ? kExitFailed : kExitOk;
}

}  // namespace chord::cli
