// `chord doctor`: looks at everything an installation needs and says how to fix it.
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"
#include "common/model/checkpoint.h"
#include "common/model/model_config.h"
#include "common/model/prompt.h"
#include "common/model/tokenizer.h"
#include "services/cli/command_line.h"
#include "services/cli/commands.h"
#include "services/cli/install_paths.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;

class Report {
 public:
  void Good(absl::string_view what) { Line("ok  ", what); }
  void Warn(absl::string_view what) { Line("warn", what); }
  void Bad(absl::string_view what) {
    Line("FAIL", what);
    failed_ = true;
  }
  bool failed() const { return failed_; }

 private:
  static void Line(const char* mark, absl::string_view what) {
    std::printf("%s  %.*s\n", mark, static_cast<int>(what.size()), what.data());
  }
  bool failed_ = false;
};

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

int64_t AvailableMemory() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    int64_t kib = 0;
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipWhitespace());
    if (words.size() >= 2 && words[0] == "MemAvailable:" && absl::SimpleAtoi(words[1], &kib)) {
      return kib << 10;
    }
  }
  return 0;
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
  const int64_t free = AvailableMemory();
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

void CheckDevice(Report& report) {
  std::error_code error;
  if (fs::exists("/dev/nvidia0", error)) {
    report.Good("device: an NVIDIA GPU is visible; --vision-device and --language-device choose");
  } else {
    report.Good("device: no NVIDIA GPU is visible; both workers run on the CPU");
  }
}

void CheckPort(Report& report, int port, absl::string_view what) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int reuse = 1;  // a port that only lingers is free
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const bool is_free = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  close(fd);
  if (is_free) {
    report.Good(absl::StrCat("port ", port, " (", what, "): free"));
  } else {
    report.Warn(absl::StrCat("port ", port, " (", what,
                             "): in use, by a running Chord or by another program. ",
                             "Give chord serve another one with --http or --grpc."));
  }
}

void CheckHost(Report& report) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur < 1024) {
    report.Warn(absl::StrCat("limits: only ", files.rlim_cur,
                             " open files; raise \"ulimit -n\" to 4096 or more."));
  } else {
    report.Good(absl::StrCat("limits: ", files.rlim_cur, " open files"));
  }
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  const std::string dir = runtime != nullptr ? runtime : "/tmp";
  if (access(dir.c_str(), W_OK | X_OK) != 0) {
    report.Bad(absl::StrCat("sockets: ", dir,
                            " cannot be written; set XDG_RUNTIME_DIR to a folder that can."));
  } else if (dir.size() > 60) {
    report.Bad("sockets: XDG_RUNTIME_DIR is too long for a unix socket; set it to a shorter path.");
  } else {
    report.Good(absl::StrCat("sockets: ", dir, " can be written"));
  }
}

}  // namespace

int RunDoctor(const std::vector<std::string>& args) {
  std::string model;
  CommandLine line("chord doctor",
                   "Checks programs, model, memory, device, ports and limits of this host and says "
                   "how to fix\nwhat is wrong.",
                   "Exit code: 0 when Chord can serve, 1 otherwise, 2 wrong command line.");
  line.Text("model", &model, "DIR", "The model to check (default: chord-nano)");
  if (const std::optional<int> code = line.Parse(args)) return *code;
  if (model.empty()) model = DefaultModelDir();
  Report report;
  CheckPrograms(report);
  if (model.empty()) {
    report.Bad("model: chord-nano is not beside this installation; give --model DIR.");
  } else {
    CheckModel(report, model);
  }
  CheckDevice(report);
  CheckPort(report, 8080, "HTTP");
  CheckPort(report, 50051, "gRPC");
  CheckHost(report);
  std::puts(report.failed() ? "Chord cannot serve yet; fix what is marked FAIL."
                            : "Chord can serve.");
  return report.failed() ? kExitFailed : kExitOk;
}

}  // namespace chord::cli
