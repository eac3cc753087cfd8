#include "common/process/process.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/config/settings.h"
#include "common/obs/log.h"
#include "common/process/logging.h"
#include "common/process/service_manager.h"
#include "common/process/span_exporter.h"

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

// Cancelled without a text: they are good, and that is all that was asked.
absl::StatusOr<config::v1::Settings> ReadSettings(int argc, char** argv, const Program& program) {
  config::Sources sources;
  sources.args.assign(argv + 1, argv + argc);
  sources.section = program.section;
  sources.environment = config::Environment();
  const auto check_only = std::find(sources.args.begin(), sources.args.end(), "--check_settings");
  const bool only = check_only != sources.args.end();
  if (only) sources.args.erase(check_only);
  CHORD_ASSIGN_OR_RETURN(const config::LoadedSettings loaded, config::LoadSettings(sources));
  CHORD_RETURN_IF_ERROR(CheckLogSettings(loaded.values.log()));
  CHORD_RETURN_IF_ERROR(CheckTracingSettings(loaded.values.tracing()));
  CHORD_RETURN_IF_ERROR(program.check(loaded.values));
  if (only) return absl::CancelledError();
  return loaded.values;
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

int RunProcess(int argc, char** argv, const Program& program) {
  // Before any thread exists, so that all of them inherit it and only the waiter gets the signals.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  DieWithParent();
  const ServiceManager manager = ServiceManager::FromEnvironment();

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

  obs::Metrics metrics(program.role, CHORD_VERSION);
  const absl::StatusOr<config::v1::Settings> settings = ReadSettings(argc, argv, program);
  if (!settings.ok()) return Fail(settings.status());
  if (const auto status = StartLogging(settings->log(), program.role, &metrics); !status.ok()) {
    return Fail(status);
  }
  absl::StatusOr<std::unique_ptr<SpanExporter>> spans = SpanExporter::Start(
      settings->tracing(), absl::StrCat("chord-", Name(program.role)), CHORD_VERSION);
  if (!spans.ok()) return Fail(spans.status());
  auto worker = program.make(*settings, &metrics);
  if (!worker.ok()) return Fail(worker.status());
  if (auto status = (*worker)->Load(); !status.ok()) return Fail(status);
  loaded = true;
  manager.Ready("serving");
  while (!stop.WaitForNotificationWithTimeout(std::min(kMaintainInterval, manager.alive_every()))) {
    (*worker)->Maintain();
    manager.Alive();
  }
  manager.Stopping("draining");
  (*worker)->Drain();
  *worker = nullptr;
  *spans = nullptr;
  obs::StopLog();
  return 0;
}

}  // namespace chord::process
