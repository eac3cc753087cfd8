#include "services/cli/serve/supervisor.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/cli/command_line.h"

extern char** environ;

namespace chord::cli {
namespace {

// Longer than the processes' own drain time.
constexpr absl::Duration kStopTimeout = absl::Seconds(15);
constexpr absl::Duration kForkRetry = absl::Seconds(1);
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

}  // namespace

Supervisor::Supervisor(const std::vector<ChildProcess>& children) {
  for (const ChildProcess& process : children) children_.push_back({.process = process});
}

int Supervisor::Run(const std::function<bool()>& ready,
                    const std::function<void(absl::Duration)>& announce) {
  BlockSignals();
  // Here and not after fork: other threads may hold the allocator's lock then.
  setenv("CHORD_SUPERVISED", "1", 1);
  const absl::Time begin = absl::Now();
  for (Child& child : children_) Start(child);
  bool announced = false;
  while (!stopping_ && exit_code_ == 0) {
    WaitForEvent(announced ? absl::Seconds(1) : absl::Milliseconds(50));
    for (Child& child : children_) {
      if (child.restart_at && absl::Now() >= *child.restart_at) Start(child);
    }
    if (!announced && ready()) {
      announced = true;
      announce(absl::Now() - begin);
    }
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
}

// Returns after a signal, at the next restart, or after `timeout`.
void Supervisor::WaitForEvent(absl::Duration timeout) {
  absl::Time until = absl::Now() + timeout;
  for (const Child& child : children_) {
    if (child.restart_at) until = std::min(until, *child.restart_at);
  }
  pollfd fd{signals_, POLLIN, 0};
  const int64_t left = std::max<int64_t>(0, absl::ToInt64Milliseconds(until - absl::Now()));
  poll(&fd, 1, static_cast<int>(left) + 1);
  signalfd_siginfo info;
  while (read(signals_, &info, sizeof(info)) == sizeof(info)) {
    if (info.ssi_signo == SIGCHLD) continue;
    ++stop_signals_;
    stopping_ = true;
  }
  Reap();
}

void Supervisor::Reap() {
  int status = 0;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    for (Child& child : children_) {
      if (child.pid != pid) continue;
      child.pid = 0;
      if (!stopping_) OnExit(child, status);
    }
  }
}

void Supervisor::OnExit(Child& child, int status) {
  const absl::Duration lived = absl::Now() - child.started;
  const std::string& role = child.process.role;
  if (IsPermanent(status)) {
    std::fprintf(stderr, "chord serve: the %s cannot start (%s); the line above says why.\n",
                 role.c_str(), DescribeExit(status).c_str());
    exit_code_ = WEXITSTATUS(status) == kExitUsage ? kExitUsage : kExitFailed;
    return;
  }
  const absl::Duration delay = child.policy.OnExit(lived);
  child.restart_at = absl::Now() + delay;
  std::fprintf(stderr,
               "chord serve: the %s ended (%s) after %.1f s; starting it again in %.1f s.\n",
               role.c_str(), DescribeExit(status).c_str(), absl::ToDoubleSeconds(lived),
               absl::ToDoubleSeconds(delay));
}

// The gateway goes first, so that it refuses new work while the workers finish the old.
void Supervisor::StopAll() {
  stopping_ = true;
  const int signals_before = stop_signals_;
  for (auto child = children_.rbegin(); child != children_.rend(); ++child) {
    StopChild(*child, signals_before);
  }
  for (Child& child : children_) {
    if (child.pid != 0) waitpid(child.pid, nullptr, 0);
  }
}

// A second signal ends the wait.
void Supervisor::StopChild(Child& child, int signals_before) {
  child.restart_at.reset();
  if (child.pid == 0) return;
  kill(child.pid, SIGTERM);
  const absl::Time patience = absl::Now() + kStopTimeout;
  while (child.pid != 0 && absl::Now() < patience && stop_signals_ == signals_before) {
    WaitForEvent(patience - absl::Now());
  }
  if (child.pid != 0) kill(child.pid, SIGKILL);
}

}  // namespace chord::cli
