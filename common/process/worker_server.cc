#include "common/process/worker_server.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/http/operational.h"
#include "common/http/server.h"
#include "common/obs/log.h"

namespace chord::process {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(50);
// After a signal the gateway needs a moment to hear that we are not ready; what it had sent until
// then is still served.
constexpr absl::Duration kLameDuck = absl::Milliseconds(300);

}  // namespace

absl::string_view ModelName(absl::string_view dir) {
  while (!dir.empty() && dir.back() == '/') dir.remove_suffix(1);
  const size_t slash = dir.rfind('/');
  return slash == absl::string_view::npos ? dir : dir.substr(slash + 1);
}

WorkerServer::WorkerServer(Options options, Hooks hooks)
    : options_(std::move(options)),
      hooks_(std::move(hooks)),
      gate_(options_.role_word),
      status_([this] { return State(); }, [this] { return options_.metrics->Serialize(); }) {}

WorkerServer::~WorkerServer() = default;

int WorkerServer::port() const { return server_->port(); }

absl::Status WorkerServer::Listen(std::vector<grpc::Service*> services) {
  rpc::Server::Options options;
  options.address = options_.address;
  options.ready_service = options_.ready_service;
  services.push_back(&status_);
  CHORD_ASSIGN_OR_RETURN(server_, rpc::Server::Start(options, services));
  if (!options_.metrics_address.empty()) {
    http::Server::Options http;
    http.address = options_.metrics_address;
    http.io_threads = 1;
    http.handler_threads = 1;
    http.max_connections = 64;
    auto server = http::Server::Start(
        std::move(http),
        http::OperationalHandler([metrics = options_.metrics] { return metrics->Serialize(); },
                                 [this] { return Readiness(); }));
    if (!server.ok()) {
      Stop(absl::Now());
      return server.status();
    }
    http_ = *std::move(server);
  }
  ticker_ = std::make_unique<PeriodicTask>(kTick, [this] {
    const absl::Time now = absl::Now();
    hooks_.tick(now);
    status_.Tick(now);
  });
  obs::Log(
      obs::LogLevel::kInfo, "listening",
      {{"address", options_.address}, {"port", port()}, {"metrics", options_.metrics_address}});
  return absl::OkStatus();
}

absl::Status WorkerServer::Load() {
  const absl::string_view model = ModelName(options_.model_dir);
  options_.metrics->SetModelState(model, obs::ModelState::kLoading);
  const absl::Time began = absl::Now();
  if (auto status = hooks_.load(); !status.ok()) {
    options_.metrics->SetModelState(model, obs::ModelState::kError);
    obs::Log(obs::LogLevel::kError, "load_failed", {{"error", status.message()}});
    return status;
  }
  gate_.Open();
  SetReady(true);
  options_.metrics->SetModelState(model, obs::ModelState::kReady);
  obs::Log(obs::LogLevel::kInfo, "ready", {{"model", model}, {"took_ms", absl::Now() - began}});
  return absl::OkStatus();
}

void WorkerServer::Drain() {
  const absl::Time deadline = absl::Now() + options_.drain;
  options_.metrics->SetModelState(ModelName(options_.model_dir), obs::ModelState::kDraining);
  SetReady(false);
  obs::Log(obs::LogLevel::kInfo, "draining", {{"inside", gate_.inside()}});
  absl::SleepFor(std::min(kLameDuck, options_.drain / 4));
  gate_.Close();
  const bool empty = gate_.WaitUntilEmpty(deadline);
  const int inside = gate_.inside();
  Stop(deadline);
  obs::Log(empty ? obs::LogLevel::kInfo : obs::LogLevel::kWarning, "stopped",
           {{"cancelled", inside}});
}

void WorkerServer::Stop(absl::Time deadline) {
  if (server_ == nullptr) return;
  gate_.Close();
  status_.Close();  // else these streams would keep the server until the deadline
  server_->Shutdown(deadline);
  ticker_ = nullptr;
  http_ = nullptr;
  hooks_.unload();
  server_ = nullptr;
}

void WorkerServer::SetReady(bool ready) {
  ready_ = ready;
  server_->SetReady(ready);
  options_.metrics->SetReady(ready);
  status_.Tick(absl::Now());
}

absl::Status WorkerServer::Readiness() const {
  if (ready_) return absl::OkStatus();
  return errors::WorkerUnavailable(options_.role_word);
}

internal::v1::WorkerState WorkerServer::State() const {
  internal::v1::WorkerState out;
  out.set_role(options_.role);
  out.set_ready(ready_);
  out.set_version(CHORD_VERSION);
  out.set_requests_in_flight(gate_.inside());
  hooks_.add_state(&out);
  return out;
}

}  // namespace chord::process
