// The supervisor of one host: starts the three processes, restarts the ones that die, stops all.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "services/cli/args.h"
#include "services/cli/commands.h"
#include "services/cli/install_paths.h"
#include "services/cli/serve/restart_policy.h"

extern char** environ;

namespace chord::cli {
namespace {

constexpr char kHelp[] =
    "chord serve [--model DIR] [--http ADDR] [--grpc ADDR]\n"
    "  Runs gateway, vision worker and language worker on this host and restarts what dies.\n"
    "  --model DIR            Hugging Face directory of a Qwen2.5-VL model (default: chord-nano)\n"
    "  --http HOST:PORT       HTTP and metrics, default 127.0.0.1:8080 (port 0: any free one)\n"
    "  --grpc HOST:PORT       gRPC, default 127.0.0.1:50051 (port 0: any free one)\n"
    "  --vision-device D      auto, cpu or cuda:N (default auto)\n"
    "  --language-device D    auto, cpu or cuda:N (default auto)\n"
    "  --dtype T              auto, fp32, bf16 or fp16 for both workers (default auto)\n"
    "  --threads N            CPU threads of each worker (default: all cores)\n"
    "  --gateway-flag F       handed to the gateway as it is, for example max_in_flight=16\n"
    "  --vision-flag F        likewise to the vision worker\n"
    "  --language-flag F      likewise to the language worker\n";

constexpr absl::Duration kStopPatience = absl::Seconds(15);

struct HostPort {
  std::string host;
  int port = 0;
};

absl::StatusOr<HostPort> ParseHostPort(const std::string& text, absl::string_view flag) {
  const size_t colon = text.rfind(':');
  HostPort out;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(text.substr(colon + 1), &out.port) || out.port < 0 || out.port > 65535) {
    return errors::ConfigInvalid(absl::StrCat("--", flag, " must be HOST:PORT."));
  }
  out.host = text.substr(0, colon);
  return out;
}

// A concrete port, chosen once, so that a gateway that is restarted is found where it was. Says at
// once when it is taken: another Chord there would answer for ours.
absl::StatusOr<std::string> FixPort(const std::string& address, absl::string_view flag) {
  CHORD_ASSIGN_OR_RETURN(HostPort where, ParseHostPort(address, flag));
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  std::string host = where.host;
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), absl::StrCat(where.port).c_str(), &hints, &found) != 0) {
    return errors::ConfigInvalid(absl::StrCat("--", flag, ": the host is not known."));
  }
  absl::Cleanup free_found = [found] { freeaddrinfo(found); };
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  absl::Cleanup close_fd = [fd] { close(fd); };
  const int reuse = 1;  // a port that only lingers is free
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0) {
    if (errno == EADDRINUSE) {
      return errors::ConfigInvalid(absl::StrCat("--", flag, ": ", address,
                                                " is in use, by a Chord that runs or by another "
                                                "program. Choose another port, or 0 for any."));
    }
    return errors::ConfigInvalid(
        absl::StrCat("--", flag, ": cannot listen on ", address, ": ", std::strerror(errno), "."));
  }
  const int port =
      ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                        : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
  return absl::StrCat(where.host, ":", port);
}

struct Child {
  std::string role;
  std::vector<std::string> command;
  pid_t pid = 0;  // 0: not running
  absl::Time started;
  std::optional<absl::Time> restart_at;
  RestartPolicy policy;
};

class Supervisor {
 public:
  explicit Supervisor(std::vector<Child> children) : children_(std::move(children)) {}

  int Run(const std::string& http_address, const std::string& grpc_address) {
    signal(SIGPIPE, SIG_IGN);  // whoever waits for the announcement may go afterwards
    // Signals arrive as data; children get a clean mask back.
    sigset_t mask;
    sigemptyset(&mask);
    for (int s : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaddset(&mask, s);
    sigprocmask(SIG_BLOCK, &mask, &original_mask_);
    signals_ = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);

    const absl::Time begin = absl::Now();
    for (Child& child : children_) Start(child);
    bool announced = false;
    while (!stopping_ && exit_code_ == 0) {
      Wait(announced ? absl::Seconds(1) : absl::Milliseconds(50));
      for (Child& child : children_) {
        if (child.restart_at && absl::Now() >= *child.restart_at) Start(child);
      }
      if (!announced && Ready(http_address)) {
        announced = true;
        std::printf("Chord is ready after %.1f s.\n  HTTP  http://%s/api/ground\n  gRPC  %s\n",
                    absl::ToDoubleSeconds(absl::Now() - begin), http_address.c_str(),
                    grpc_address.c_str());
        std::fflush(stdout);
        clearerr(stdout);  // nobody has to read that
      }
    }
    Stop();
    close(signals_);
    return exit_code_;
  }

 private:
  void Start(Child& child) {
    child.restart_at.reset();
    std::vector<char*> argv;
    for (std::string& part : child.command) argv.push_back(part.data());
    argv.push_back(nullptr);
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid == 0) {
      // A worker must not outlive its supervisor, not even one that was killed.
      prctl(PR_SET_PDEATHSIG, SIGTERM);
      if (getppid() != parent) _exit(1);
      setpgid(0, 0);  // Ctrl-C reaches the supervisor, which stops the others in order
      sigprocmask(SIG_SETMASK, &original_mask_, nullptr);
      setenv("CHORD_SUPERVISED", "1", 1);
      execve(argv[0], argv.data(), environ);
      _exit(127);
    }
    if (pid < 0) {
      child.restart_at = absl::Now() + absl::Seconds(1);
      return;
    }
    child.pid = pid;
    child.started = absl::Now();
  }

  // Until a signal or `patience` ends.
  void Wait(absl::Duration patience) {
    absl::Time until = absl::Now() + patience;
    for (const Child& child : children_) {
      if (child.restart_at) until = std::min(until, *child.restart_at);
    }
    pollfd fd{signals_, POLLIN, 0};
    poll(
        &fd, 1,
        static_cast<int>(std::max<int64_t>(0, absl::ToInt64Milliseconds(until - absl::Now())) + 1));
    signalfd_siginfo info;
    while (read(signals_, &info, sizeof(info)) == sizeof(info)) {
      if (info.ssi_signo != SIGCHLD) {
        ++stop_signals_;
        stopping_ = true;
      }
    }
    Reap();
  }

  void Reap() {
    int status = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
      for (Child& child : children_) {
        if (child.pid != pid) continue;
        child.pid = 0;
        if (!stopping_) OnDeath(child, status);
      }
    }
  }

  void OnDeath(Child& child, int status) {
    const absl::Duration lived = absl::Now() - child.started;
    std::string how = WIFSIGNALED(status) ? absl::StrCat("signal ", WTERMSIG(status))
                                          : absl::StrCat("exit code ", WEXITSTATUS(status));
    // Bad settings or a missing program do not heal by themselves. (2: see commands.h.)
    if (WIFEXITED(status) && (WEXITSTATUS(status) == 2 || WEXITSTATUS(status) == 127)) {
      std::fprintf(stderr, "chord serve: the %s cannot start (%s); the line above says why.\n",
                   child.role.c_str(), how.c_str());
      exit_code_ = WEXITSTATUS(status) == 2 ? 2 : 1;
      return;
    }
    const absl::Duration delay = child.policy.OnExit(lived);
    child.restart_at = absl::Now() + delay;
    std::fprintf(stderr,
                 "chord serve: the %s ended (%s) after %.1f s; starting it again in %.1f s.\n",
                 child.role.c_str(), how.c_str(), absl::ToDoubleSeconds(lived),
                 absl::ToDoubleSeconds(delay));
  }

  // The gateway goes first, so that it refuses new work while the workers finish the old.
  void Stop() {
    stopping_ = true;
    const int signals_before = stop_signals_;
    for (auto child = children_.rbegin(); child != children_.rend(); ++child) {
      child->restart_at.reset();
      if (child->pid == 0) continue;
      kill(child->pid, SIGTERM);
      const absl::Time patience = absl::Now() + kStopPatience;
      while (child->pid != 0 && absl::Now() < patience && stop_signals_ == signals_before) {
        Wait(patience - absl::Now());
      }
      if (child->pid != 0) kill(child->pid, SIGKILL);
    }
    for (Child& child : children_) {
      if (child.pid != 0) waitpid(child.pid, nullptr, 0);
    }
  }

  static bool Ready(const std::string& http_address) {
    const size_t colon = http_address.rfind(':');
    std::string host = http_address.substr(0, colon);
    if (host == "0.0.0.0") host = "127.0.0.1";
    if (host == "[::]") host = "::1";
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (getaddrinfo(host.c_str(), http_address.c_str() + colon + 1, &hints, &found) != 0)
      return false;
    absl::Cleanup free_found = [found] { freeaddrinfo(found); };
    const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    absl::Cleanup close_fd = [fd] { close(fd); };
    const timeval patience{0, 300'000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (connect(fd, found->ai_addr, found->ai_addrlen) != 0) return false;
    constexpr char kAsk[] = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    if (send(fd, kAsk, sizeof(kAsk) - 1, MSG_NOSIGNAL) < 0) return false;
    char answer[16] = {};
    return recv(fd, answer, 12, MSG_WAITALL) == 12 && std::string(answer + 9, 3) == "200";
  }

  std::vector<Child> children_;  // workers first, gateway last
  sigset_t original_mask_;
  int signals_ = -1;
  int stop_signals_ = 0;
  bool stopping_ = false;
  int exit_code_ = 0;
};

absl::StatusOr<int> Serve(const std::vector<std::string>& raw) {
  // --*-flag may repeat; the rest goes through the ordinary parser.
  std::vector<std::string> args, extra[3];
  const std::string kinds[3] = {"--language-flag", "--vision-flag", "--gateway-flag"};
  for (size_t i = 0; i < raw.size(); ++i) {
    const std::string name = raw[i].substr(0, raw[i].find('='));
    const auto* kind = std::find(std::begin(kinds), std::end(kinds), name);
    if (kind == std::end(kinds)) {
      args.push_back(raw[i]);
      continue;
    }
    if (name == raw[i] && i + 1 == raw.size()) {
      return errors::ConfigInvalid(absl::StrCat(name, " needs a value; see --help."));
    }
    absl::string_view flag = name == raw[i] ? absl::string_view(raw[++i])
                                            : absl::string_view(raw[i]).substr(name.size() + 1);
    absl::ConsumePrefix(&flag, "--");  // written as the process itself has it
    extra[kind - kinds].push_back(absl::StrCat("--", flag));
  }
  const std::vector<FlagSpec> specs = {
      {"model"},           {"http"},  {"grpc"},    {"vision-device"},
      {"language-device"}, {"dtype"}, {"threads"}, {"help", false}};
  CHORD_ASSIGN_OR_RETURN(const Args flags, ParseArgs(args, specs));
  if (flags.Has("help")) {
    std::fputs(kHelp, stdout);
    return 0;
  }
  if (!flags.positional.empty()) {
    return errors::ConfigInvalid("chord serve takes options only; see --help.");
  }
  const std::string model = flags.Get("model", DefaultModelDir());
  if (model.empty()) {
    return errors::ConfigInvalid("chord-nano is not beside this installation; give --model DIR.");
  }
  std::error_code error;
  if (!std::filesystem::is_directory(model, error)) {
    return errors::ConfigInvalid(absl::StrCat("--model: there is no folder ", model, "."));
  }
  CHORD_ASSIGN_OR_RETURN(const std::string http,
                         FixPort(flags.Get("http", "127.0.0.1:8080"), "http"));
  CHORD_ASSIGN_OR_RETURN(const std::string grpc,
                         FixPort(flags.Get("grpc", "127.0.0.1:50051"), "grpc"));

  // Sockets between our processes: a folder nobody else can enter.
  const char* base = getenv("XDG_RUNTIME_DIR");
  std::string run_dir = absl::StrCat(base != nullptr ? base : "/tmp", "/chord-XXXXXX");
  if (mkdtemp(run_dir.data()) == nullptr) {
    return errors::ConfigInvalid(
        "Cannot make a folder for sockets; set XDG_RUNTIME_DIR to one that can be written.");
  }
  absl::Cleanup remove_run_dir = [&] { std::filesystem::remove_all(run_dir, error); };
  if (run_dir.size() + std::strlen("/language.sock") >= sizeof(sockaddr_un::sun_path)) {
    return errors::ConfigInvalid(
        "XDG_RUNTIME_DIR is too long for a unix socket; set it to a shorter path.");
  }
  const std::string vision = absl::StrCat("unix:", run_dir, "/vision.sock");
  const std::string language = absl::StrCat("unix:", run_dir, "/language.sock");

  auto worker = [&](const std::string& role, const std::string& program, const std::string& address,
                    const std::string& device) {
    Child child;
    child.role = role;
    child.command = {Sibling(program), absl::StrCat("--model_dir=", model),
                     absl::StrCat("--address=", address), absl::StrCat("--device=", device)};
    if (flags.Has("dtype")) child.command.push_back(absl::StrCat("--dtype=", flags.Get("dtype")));
    if (flags.Has("threads")) {
      child.command.push_back(absl::StrCat("--threads=", flags.Get("threads")));
    }
    return child;
  };
  std::vector<Child> children;
  children.push_back(worker("language worker", "chord_llm_worker", language,
                            flags.Get("language-device", "auto")));
  children.push_back(
      worker("vision worker", "chord_vision_worker", vision, flags.Get("vision-device", "auto")));
  children[1].command.push_back(absl::StrCat("--language_workers=language-0=", language));
  Child gateway;
  gateway.role = "gateway";
  gateway.command = {Sibling("chord_gateway"),
                     absl::StrCat("--model_dir=", model),
                     absl::StrCat("--http_address=", http),
                     absl::StrCat("--grpc_address=", grpc),
                     absl::StrCat("--vision_workers=vision-0=", vision),
                     absl::StrCat("--language_workers=language-0=", language)};
  children.push_back(std::move(gateway));
  for (int k = 0; k < 3; ++k) {
    children[k].command.insert(children[k].command.end(), extra[k].begin(), extra[k].end());
  }
  for (const Child& child : children) {
    if (access(child.command[0].c_str(), X_OK) != 0) {
      return errors::ConfigInvalid(
          absl::StrCat("The program of the ", child.role,
                       " is not beside chord; build or install all of Chord."));
    }
  }
  return Supervisor(std::move(children)).Run(http, grpc);
}

}  // namespace

int RunServe(const std::vector<std::string>& args) {
  const absl::StatusOr<int> code = Serve(args);
  if (code.ok()) return *code;
  std::fprintf(stderr, "chord serve: %s\n", std::string(code.status().message()).c_str());
  return 2;
}

}  // namespace chord::cli
