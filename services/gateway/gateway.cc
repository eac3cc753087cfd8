#include "services/gateway/gateway.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/executor.h"
#include "common/base/host_port.h"
#include "common/base/status_macros.h"
#include "common/config/config.h"
#include "common/grounding/confidence.h"
#include "common/http/problem.h"
#include "common/http/server.h"
#include "common/model/model_config.h"
#include "common/obs/log.h"
#include "common/rpc/server.h"
#include "services/gateway/admission.h"
#include "services/gateway/endpoint_deps.h"
#include "services/gateway/free_memory.h"
#include "services/gateway/grounder.h"
#include "services/gateway/grpc/grpc_service.h"
#include "services/gateway/http/http_service.h"
#include "services/gateway/http/web_page.h"
#include "services/gateway/images/image_service.h"
#include "services/gateway/openai/error.h"
#include "services/gateway/openai/service.h"
#include "services/gateway/request_scope.h"

namespace chord::gateway {
namespace {

constexpr absl::Duration kLameDuck = absl::Seconds(1);

std::string FolderName(const std::string& dir) {
  std::error_code ignored;
  const auto path = std::filesystem::weakly_canonical(dir, ignored);
  return path.filename().string();
}

// The epoch when it cannot be told.
absl::Time WrittenAt(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 ? absl::FromTimeT(info.st_mtime) : absl::UnixEpoch();
}

class GatewayImpl final : public Gateway {
 public:
  GatewayImpl(const Settings& settings, obs::Metrics& metrics)
      : settings_(settings), metrics_(metrics) {}

  ~GatewayImpl() override { Stop(absl::Now()); }

  absl::Status Begin() {
    CHORD_RETURN_IF_ERROR(ReadModel());
    StartPool();
    // A few threads more than requests may run: a request that is refused needs one for a moment.
    executor_ = std::make_unique<Executor>(settings_.max_in_flight + 4, 32);
    MakeCore();
    const EndpointDeps deps = {*grounder_, *admission_, *image_service_,
                               *executor_, metrics_,    settings_.max_batch};
    CHORD_RETURN_IF_ERROR(StartGrpc(deps));
    CHORD_RETURN_IF_ERROR(StartHttp(deps));
    PublishReady();
    obs::Log(obs::LogLevel::kInfo, "listening",
             {{"http", http_address()},
              {"grpc", grpc_address()},
              {"model", model_.name},
              {"fingerprint", model_.fingerprint}});
    return absl::OkStatus();
  }

  std::string http_address() const override { return http_->address(); }
  int http_port() const override { return http_->port(); }
  std::string grpc_address() const override {
    const std::string& asked = settings_.grpc_address;
    absl::StatusOr<HostPort> where = ParseHostPort(asked);
    if (!where.ok()) return asked;  // a Unix socket
    where->port = grpc_->port();
    return where->ToString();
  }

  absl::Status Load() override { return absl::OkStatus(); }  // Begin has done it

  // Memory is returned here and not in the workers: what an engine has freed it needs again at
  // once.
  void Maintain() override {
    calls_.Sweep(absl::Now());
    free_memory_.Return();
  }

  void Drain() override {
    const absl::Time deadline = absl::Now() + settings_.drain;
    draining_ = true;
    PublishReady();
    obs::Log(obs::LogLevel::kInfo, "draining", {{"in_flight", admission_->in_flight()}});
    absl::SleepFor(std::min(kLameDuck, settings_.drain / 4));
    Stop(deadline);
    obs::Log(obs::LogLevel::kInfo, "drained", {});
  }

 private:
  // What the gateway knows of the model.
  struct Model {
    image::PatchGeometry geometry;
    std::string fingerprint;
    std::string name;
    PromptStyle style;
    std::shared_ptr<const grounding::ConfidenceMap> confidence_map;
  };

  absl::Status ReadModel() {
    CHORD_ASSIGN_OR_RETURN(const model::ModelConfig config,
                           model::LoadModelConfig(settings_.model_dir));
    CHORD_ASSIGN_OR_RETURN(model_.fingerprint, model::Fingerprint(settings_.model_dir));
    CHORD_ASSIGN_OR_RETURN(const ChordFile file, LoadChordFile(settings_.model_dir));
    model_.geometry = config.geometry;
    model_.name = !settings_.model_name.empty() ? settings_.model_name
                  : !file.name.empty()          ? file.name
                                                : FolderName(settings_.model_dir);
    model_.style.wrapper = settings_.prompt_wrapper == "none"   ? PromptWrapper::kNone
                           : settings_.prompt_wrapper == "json" ? PromptWrapper::kJson
                                                                : file.wrapper;
    model_.style.label_passes = file.label_passes;
    model_.confidence_map = FindConfidenceMap(model_.fingerprint);
    return absl::OkStatus();
  }

  void StartPool() {
    WorkerPool::Options pool;
    pool.vision = settings_.vision_workers;
    pool.language = settings_.language_workers;
    pool.fingerprint = model_.fingerprint;
    pool.dns_every = settings_.dns_every;
    pool.on_change = [this](int vision, int language) {
      metrics_.SetWorkers(obs::Role::kVisionWorker, vision);
      metrics_.SetWorkers(obs::Role::kLlmWorker, language);
      workers_ready_ = vision > 0 && language > 0;
      PublishReady();
    };
    pool_ = WorkerPool::Start(std::move(pool));
  }

  void MakeCore() {
    ImageService::Options images;
    images.geometry = model_.geometry;
    images.fingerprint = model_.fingerprint;
    images.limits.max_bytes = settings_.max_image_bytes;
    images.limits.max_pixels = settings_.max_image_pixels;
    images.limits.max_metadata_bytes = settings_.max_image_metadata_bytes;
    images.store = {settings_.image_store_bytes, settings_.image_ttl};
    images.sessions.max_sessions = settings_.max_sessions;
    images.sessions.ttl = settings_.image_ttl;
    image_service_ = std::make_unique<ImageService>(std::move(images), *pool_, metrics_);

    Admission::Options admission;
    admission.max_requests = settings_.max_in_flight;
    admission.client_requests = settings_.client_requests;
    admission_ = std::make_unique<Admission>(admission);

    Grounder::Options core;
    core.fingerprint = model_.fingerprint;
    core.model_name = model_.name;
    core.style = model_.style;
    core.max_prompt_bytes = settings_.max_prompt_bytes;
    core.default_new_tokens = settings_.default_new_tokens;
    core.max_new_tokens = settings_.max_new_tokens;
    core.default_deadline = settings_.default_deadline;
    core.max_deadline = settings_.max_deadline;
    core.worker_wait = settings_.worker_wait;
    core.retry_burst = settings_.max_in_flight;
    core.thresholds = {settings_.advice_threshold, settings_.review_threshold};
    core.confidence_map = model_.confidence_map;
    grounder_ = std::make_unique<Grounder>(core, *admission_, *image_service_, *pool_, metrics_,
                                           *executor_);
  }

  absl::Status StartGrpc(const EndpointDeps& deps) {
    services_ = GrpcServices(deps, {model_.name, model_.fingerprint}, calls_);
    rpc::Server::Options options;
    options.address = settings_.grpc_address;
    // gRPC's own refusal of a large message has no reason: a message that is not far too large is
    // read, so that ours can be given.
    options.max_receive_bytes = 2 * (settings_.max_image_bytes + kMessageSlackBytes);
    options.reflect = GrpcServiceNames();
    options.ready_service = "chord.v1.Grounding";
    std::vector<grpc::Service*> services;
    for (const auto& service : services_) services.push_back(service.get());
    CHORD_ASSIGN_OR_RETURN(auto server, rpc::Server::Start(options, services));
    absl::MutexLock lock(&mu_);
    grpc_ = std::move(server);
    return absl::OkStatus();
  }

  absl::Status StartHttp(const EndpointDeps& deps) {
    http::Server::Options options;
    options.address = settings_.http_address;
    options.handler_threads = settings_.max_in_flight + 4;
    options.max_queued = 32;
    options.max_connections = settings_.max_http_connections;
    options.cors_origins = settings_.cors_origins;
    options.on_exchange = [this](const http::Server::Exchange& exchange) {
      metrics_.HttpResponse(exchange.status);
      // Handlers report their own refusals; these never reached one.
      if (exchange.refusal.ok()) return;
      metrics_.Rejected(exchange.refusal);
      LogRefusal(exchange.request_id, exchange.refusal);
    };
    options.refusal = [](const absl::Status& status, const http::Request& request) {
      return openai::IsOpenAiPath(request.path) ? openai::ErrorResponse(status)
                                                : http::Problem(status, request.id);
    };
    auto ready = [this] { return draining_ ? errors::ShuttingDown() : pool_->Ready(); };
    std::vector<http::Route> routes = HttpRoutes(deps,
                                                 {.version = CHORD_VERSION,
                                                  .model = model_.name,
                                                  .model_fingerprint = model_.fingerprint,
                                                  .openai = OpenAiService()},
                                                 std::move(ready));
    for (http::Route& route : WebPageRoutes(MakePageConfig())) routes.push_back(std::move(route));
    CHORD_ASSIGN_OR_RETURN(http_, http::Server::Start(options, std::move(routes)));
    return absl::OkStatus();
  }

  openai::Service OpenAiService() const {
    openai::Service out;
    out.model = {model_.name, absl::ToUnixSeconds(WrittenAt(settings_.model_dir + "/config.json")),
                 model_.fingerprint};
    out.fingerprint = model_.fingerprint;
    out.wrapper = model_.style.wrapper;
    out.limits = {settings_.max_prompt_bytes, settings_.max_new_tokens};
    return out;
  }

  // A map that is broken or of another model must not stop a service that answers well without it,
  // but the log reports it as an error.
  std::shared_ptr<const grounding::ConfidenceMap> FindConfidenceMap(
      const std::string& fingerprint) const {
    auto map = grounding::LoadConfidenceMap(settings_.model_dir, fingerprint);
    if (!map.ok()) {
      obs::Log(obs::LogLevel::kError, "confidence_map_refused", {{"why", map.status().message()}});
      return nullptr;
    }
    obs::Log(obs::LogLevel::kInfo, "confidence_map",
             {{"calibrated", map->has_value()},
              {"questions", map->has_value() ? (*map)->fitted_on.prompts : 0}});
    return *map ? std::make_shared<const grounding::ConfidenceMap>(*std::move(*map)) : nullptr;
  }

  PageConfig MakePageConfig() const {
    PageConfig page;
    page.model = model_.name;
    page.grpc_address = grpc_address();
    page.max_image_bytes = settings_.max_image_bytes;
    page.max_image_pixels = settings_.max_image_pixels;
    page.max_prompt_bytes = settings_.max_prompt_bytes;
    page.review_threshold = settings_.review_threshold;
    page.advice_threshold = settings_.advice_threshold;
    return page;
  }

  void PublishReady() {
    const bool ready = workers_ready_ && !draining_;
    metrics_.SetReady(ready);
    absl::MutexLock lock(&mu_);
    if (grpc_ != nullptr) grpc_->SetReady(ready);
  }

  // Both servers drain side by side; then what they used ends, in the order of use.
  void Stop(absl::Time deadline) {
    std::thread http([&] {
      if (http_ != nullptr) http_->Shutdown(deadline);
    });
    calls_.Shutdown(errors::ShuttingDown());
    if (grpc_ != nullptr) grpc_->Shutdown(deadline);
    http.join();
    executor_ = nullptr;
    {
      absl::MutexLock lock(&mu_);
      grpc_stopped_ = std::move(grpc_);  // the pool may still want to tell it something
    }
    image_service_ = nullptr;  // tells workers what to drop
    pool_ = nullptr;
    grpc_stopped_ = nullptr;
  }

  const Settings settings_;
  obs::Metrics& metrics_;
  Model model_;
  std::atomic<bool> draining_{false};
  std::atomic<bool> workers_ready_{false};
  std::unique_ptr<WorkerPool> pool_;
  std::unique_ptr<ImageService> image_service_;
  std::unique_ptr<Admission> admission_;
  std::unique_ptr<Grounder> grounder_;
  std::unique_ptr<Executor> executor_;
  rpc::CallRegistry calls_;
  FreeMemory free_memory_;
  std::vector<std::unique_ptr<grpc::Service>> services_;
  absl::Mutex mu_;  // for the pool's thread, which may tell of readiness at any time
  std::unique_ptr<rpc::Server> grpc_;
  std::unique_ptr<rpc::Server> grpc_stopped_;
  std::unique_ptr<http::Server> http_;
};

absl::StatusOr<std::unique_ptr<process::Worker>> Make(const std::vector<std::string>& args,
                                                      obs::Metrics* metrics) {
  config::v1::Gateway config;
  CHORD_RETURN_IF_ERROR(config::ApplyFlags(args, &config));
  CHORD_ASSIGN_OR_RETURN(const Settings settings, CheckSettings(config));
  rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
    files.rlim_cur = files.rlim_max;  // connections are bounded by a setting of ours
    setrlimit(RLIMIT_NOFILE, &files);
  }
  CHORD_ASSIGN_OR_RETURN(std::unique_ptr<process::Worker> gateway,
                         Gateway::Start(settings, metrics));
  return gateway;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Gateway>> Gateway::Start(const Settings& settings,
                                                        obs::Metrics* metrics) {
  auto gateway = std::make_unique<GatewayImpl>(settings, *metrics);
  CHORD_RETURN_IF_ERROR(gateway->Begin());
  return std::unique_ptr<Gateway>(std::move(gateway));
}

int RunGateway(int argc, char** argv) {
  return process::RunProcess(argc, argv, obs::Role::kGateway, Make);
}

}  // namespace chord::gateway
