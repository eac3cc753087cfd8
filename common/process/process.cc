#include "common/process/process.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "common/base/errors.h"
#include "common/obs/log.h"

namespace chord::process {
namespace {

constexpr int kKilled = 128 + SIGTERM;
constexpr absl::Duration kMaintainInterval = absl::Seconds(2);

int Fail(const absl::Status& status) {
  obs::StopLog();  // what it holds comes before our sentence
  if (absl::IsCancelled(status) && !IsCatalogued(status)) {  // --help
    std::fputs(std::string(status.message()).c_str(), stdout);
    return 0;
  }
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return IsCatalogued(status) ? 2 : 1;
}

void DieWithParent() {
  const char* supervised = std::getenv("CHORD_SUPERVISED");
  if (supervised == nullptr) return;
  const pid_t parent = getppid();
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  // It may have died before we asked. "1" only says that there is a supervisor; in a container it
  // may well be process 1.
  int named = 0;
  const bool other = absl::SimpleAtoi(supervised, &named) && named > 1 && parent != named;
  if (other || getppid() != parent) std::_Exit(kKilled);
}

}  // namespace

int RunProcess(int argc, char** argv, obs::Role role, const MakeWorker& make) {
  // Before any thread exists, so that all of them inherit it and only the waiter gets the signals.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  DieWithParent();

  static std::atomic<bool> loaded{false};
  static absl::Notification stop;
  std::thread([signals] {
    int which = 0;
    sigwait(&signals, &which);
    if (!loaded) std::_Exit(0);
    stop.Notify();
    sigwait(&signals, &which);
    std::_Exit(kKilled);
  }).detach();

  obs::Metrics metrics(role, CHORD_VERSION);
  obs::LogOptions log;
  log.role = role;
  log.metrics = &metrics;
  obs::StartLog(log);
  auto worker = make(std::vector<std::string>(argv + 1, argv + argc), &metrics);
  if (!worker.ok()) return Fail(worker.status());
  if (auto status = (*worker)->Load(); !status.ok()) return Fail(status);
  loaded = true;
  while (!stop.WaitForNotificationWithTimeout(kMaintainInterval)) (*worker)->Maintain();
  (*worker)->Drain();
  *worker = nullptr;
  obs::StopLog();
  return 0;
}

}  // namespace chord::process
