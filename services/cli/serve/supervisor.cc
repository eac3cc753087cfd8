#include "services/cli/serve/supervisor.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "common/base/atomic_file.h"
#include "common/obs/log.h"
#include "services/cli/command_line.h"

extern char** environ;

namespace chord::cli {
namespace {

using obs::Log;
using obs::LogLevel;

constexpr absl::Duration kForkRetry = absl::Seconds(1);
// While the system starts, its state is asked this often.
constexpr absl::Duration kStartPace = absl::Milliseconds(50);
constexpr int kExecFailed = 127;

std::string DescribeExit(int status) {
  return WIFSIGNALED(status) ? absl::StrCat("signal ", WTERMSIG(status))
                             : absl::StrCat("exit code ", WEXITSTATUS(status));
}

// Wrong settings and a missing program do not heal by themselves.
bool IsPermanent(int status) {
  return WIFEXITED(status) &&
         (WEXITSTATUS(status) == kExitUsage || WEXITSTATUS(status) == kExecFailed);
}

// A unix socket that is not there yet would cost the channel a pause before its next attempt.
bool IsListening(absl::string_view address) {
  return !absl::ConsumePrefix(&address, "unix:") || access(std::string(address).c_str(), F_OK) == 0;
}

}  // namespace

struct Supervisor::Child {
  explicit Child(const ChildProcess& child_process)
      : process(child_process),
        watch(child_process.limits),
        probe(child_process.health_address, child_process.ready_service) {}

  ChildProcess process;
  ChildWatch watch;
  HealthProbe probe;
  RestartPolicy policy;
  pid_t pid = 0;  // 0: not running
  absl::Time started = {};
  std::optional<absl::Time> restart_at = {};
  Verdict ended_for = Verdict::kGood;  // why we ended it
};

Supervisor::Supervisor(Options options, const std::vector<ChildProcess>& children)
    : options_(std::move(options)) {
  // Before the probes, which start threads: a signal that one of them took would be lost, or end
  // us.
  BlockSignals();
  for (const ChildProcess& process : children) {
    children_.push_back(std::make_unique<Child>(process));
  }
}

Supervisor::~Supervisor() = default;

int Supervisor::Run(const std::function<void(absl::Duration)>& announce) {
  // Here and not after fork: other threads may hold the allocator's lock then.
  setenv("CHORD_SUPERVISED", "1", 1);
  const absl::Time begin = absl::Now();
  for (const auto& child : children_) Start(*child);
  while (!stopping_ && exit_code_ == 0) {
    WaitForEvent(announced_ ? options_.probe_every : kStartPace);
    for (const auto& child : children_) {
      if (child->restart_at && absl::Now() >= *child->restart_at) Start(*child);
    }
    WatchAll();
    if (!announced_ && AllReady()) {
      announced_ = true;
      announce(absl::Now() - begin);
      options_.manager.Ready("serving");
    }
    TellManager();
  }
  StopAll();
  close(signals_);
  return exit_code_;
}

// Signals arrive as data; children get the original mask back.
void Supervisor::BlockSignals() {
  signal(SIGPIPE, SIG_IGN);  // a reader of our output may close it
  sigset_t mask;
  sigemptyset(&mask);
  for (int s : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaddset(&mask, s);
  sigprocmask(SIG_BLOCK, &mask, &original_mask_);
  signals_ = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
}

void Supervisor::Start(Child& child) {
  child.restart_at.reset();
  std::vector<char*> argv;
  for (std::string& part : child.process.command) argv.push_back(part.data());
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    // A worker must not outlive its supervisor, not even one that was killed.
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    setpgid(0, 0);  // Ctrl-C reaches the supervisor, which stops the others in order
    sigprocmask(SIG_SETMASK, &original_mask_, nullptr);
    execve(argv[0], argv.data(), environ);
    _exit(kExecFailed);
  }
  if (pid < 0) {
    child.restart_at = absl::Now() + kForkRetry;
    return;
  }
  child.pid = pid;
  child.started = absl::Now();
  child.ended_for = Verdict::kGood;
  child.probe.Take();  // an answer of the one before
  child.watch.Started(child.started);
  CountStart(child, true, false);
  Log(LogLevel::kInfo, "child_started",
      {{"process", Name(child.process.process)}, {"child_pid", pid}});
}

absl::Duration Supervisor::UntilNextEvent(absl::Duration timeout) const {
  const absl::Time now = absl::Now();
  absl::Time until = std::min({now + timeout, next_probe_, next_alive_});
  if (!announced_) until = now + timeout;
  for (const auto& child : children_) {
    if (child->restart_at) until = std::min(until, *child->restart_at);
  }
  return std::max(until - now, absl::ZeroDuration());
}

// Returns after a signal, when something is due, or after `timeout`.
void Supervisor::WaitForEvent(absl::Duration timeout) {
  pollfd fd{signals_, POLLIN, 0};
  poll(&fd, 1, static_cast<int>(absl::ToInt64Milliseconds(UntilNextEvent(timeout))) + 1);
  TakeSignals();
  Reap();
  if (absl::Now() >= next_alive_) {
    next_alive_ = absl::Now() + options_.manager.alive_every();
    options_.manager.Alive();
  }
}

void Supervisor::TakeSignals() {
  signalfd_siginfo info;
  while (read(signals_, &info, sizeof(info)) == sizeof(info)) {
    if (info.ssi_signo == SIGCHLD) continue;
    ++stop_signals_;
    stopping_ = true;
  }
}

void Supervisor::Reap() {
  int status = 0;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    for (const auto& child : children_) {
      if (child->pid != pid) continue;
      child->pid = 0;
      if (!stopping_) OnExit(*child, status);
    }
  }
}

void Supervisor::GiveUp(const Child& child, int code, const char* event, const std::string& why) {
  exit_code_ = code;
  Log(LogLevel::kError, event, {{"process", Name(child.process.process)}, {"why", why}});
}

void Supervisor::OnExit(Child& child, int status) {
  const absl::Duration lived = absl::Now() - child.started;
  if (IsPermanent(status)) {
    return GiveUp(child, WEXITSTATUS(status) == kExitUsage ? kExitUsage : kExitFailed,
                  "child_cannot_start",
                  absl::StrCat("The ", child.process.role, " cannot start (", DescribeExit(status),
                               "); the line before says why."));
  }
  const absl::Duration delay = child.policy.OnExit(lived, child.watch.was_ready());
  if (child.policy.failed_starts() > options_.max_failed_starts) {
    return GiveUp(child, kExitCrashLoop, "crash_loop",
                  absl::StrCat("The ", child.process.role, " ended ", child.policy.failed_starts(),
                               " times in a row before it was ready, the last time with ",
                               DescribeExit(status), "."));
  }
  child.restart_at = absl::Now() + delay;
  CountStart(child, false, true);
  Log(LogLevel::kWarning, "child_exited",
      {{"process", Name(child.process.process)},
       {"status", DescribeExit(status)},
       {"cause", obs::Name(CauseOf(child.ended_for))},
       {"lived_ms", lived},
       {"restart_in_ms", delay}});
}

void Supervisor::CountStart(const Child& child, bool up, bool restarted) {
  obs::Metrics* const metrics = options_.metrics;
  if (metrics == nullptr) return;
  metrics->SetProcessUp(child.process.process, up);
  if (restarted) metrics->Restarted(child.process.process, CauseOf(child.ended_for));
  if (options_.metrics_file.empty()) return;
  const std::string text = metrics->Serialize();
  const absl::Status written = WriteFileAtomically(options_.metrics_file, {text});
  if (!written.ok()) {
    Log(LogLevel::kWarning, "metrics_not_written", {{"why", written.message()}});
  }
}

void Supervisor::WatchAll() {
  const absl::Time now = absl::Now();
  if (announced_ && now < next_probe_) return;
  next_probe_ = now + options_.probe_every;
  for (const auto& child : children_) Watch(*child);
}

void Supervisor::Watch(Child& child) {
  if (child.pid == 0) return;
  if (const auto answer = child.probe.Take()) child.watch.Answered(answer->at, answer->ready);
  if (IsListening(child.process.health_address)) child.probe.Ask(options_.probe_every);
  const int64_t memory = OwnMemoryBytes(child.pid);
  Act(child, child.watch.Judge(absl::Now(), memory), memory);
}

void Supervisor::Act(Child& child, Verdict verdict, int64_t memory_bytes) {
  if (verdict == Verdict::kGood || child.ended_for == verdict) return;
  child.ended_for = verdict;
  const bool drain = verdict == Verdict::kOverSoftLimit;
  Log(LogLevel::kWarning, verdict == Verdict::kHung ? "child_hung" : "child_over_memory",
      {{"process", Name(child.process.process)},
       {"child_pid", child.pid},
       {"own_memory_bytes", memory_bytes},
       {"signal", drain ? "SIGTERM" : "SIGKILL"}});
  if (drain) child.watch.AskedToEnd(absl::Now());
  kill(child.pid, drain ? SIGTERM : SIGKILL);
}

bool Supervisor::AllReady() const { return children_.back()->watch.is_ready(); }

void Supervisor::TellManager() {
  if (!announced_) return;
  std::string status;
  for (const auto& child : children_) {
    if (child->pid != 0 && child->watch.is_ready()) continue;
    absl::StrAppend(&status, status.empty() ? "not ready: " : ", ", child->process.role);
  }
  if (status.empty()) status = "serving";
  if (status == told_) return;
  told_ = status;
  options_.manager.Status(status);
}

// The gateway goes first, so that it refuses new work while the workers finish the old.
void Supervisor::StopAll() {
  stopping_ = true;
  Log(LogLevel::kInfo, "stopping", {{"exit_code", exit_code_}});
  options_.manager.Stopping("draining");
  const int signals_before = stop_signals_;
  for (auto child = children_.rbegin(); child != children_.rend(); ++child) {
    StopChild(**child, signals_before);
  }
  for (const auto& child : children_) {
    if (child->pid != 0) waitpid(child->pid, nullptr, 0);
  }
}

// A second signal ends the wait.
void Supervisor::StopChild(Child& child, int signals_before) {
  child.restart_at.reset();
  if (child.pid == 0) return;
  kill(child.pid, SIGTERM);
  const absl::Time patience = absl::Now() + child.process.limits.drain;
  while (child.pid != 0 && absl::Now() < patience && stop_signals_ == signals_before) {
    next_probe_ = absl::InfiniteFuture();  // no one is watched any more
    WaitForEvent(patience - absl::Now());
  }
  if (child.pid != 0) kill(child.pid, SIGKILL);
}

}  // namespace chord::cli
