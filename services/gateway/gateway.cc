#include "services/gateway/gateway.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/executor.h"
#include "common/base/host_port.h"
#include "common/base/status_macros.h"
#include "common/grounding/confidence.h"
#include "common/http/operational.h"
#include "common/http/problem.h"
#include "common/http/server.h"
#include "common/model/model_config.h"
#include "common/obs/exposition.h"
#include "common/obs/log.h"
#include "common/rpc/server.h"
#include "services/gateway/access/access.h"
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

constexpr absl::Duration kMetricsTimeout = absl::Milliseconds(500);  // for the workers' answers
constexpr size_t kMaxMetricsFileBytes = 1 << 20;

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
    CHORD_ASSIGN_OR_RETURN(
        access_, Access::Create({settings_.trusted_proxies, settings_.api_keys_file}, metrics_));
    CHORD_RETURN_IF_ERROR(OpenCertificates());
    executor_ = std::make_unique<Executor>(settings_.max_in_flight + 4, 32);
    MakeCore();
    const EndpointDeps deps = {*grounder_, *admission_,         *image_service_, *executor_,
                               metrics_,   settings_.max_batch, access_.get()};
    CHORD_RETURN_IF_ERROR(StartGrpc(deps));
    CHORD_RETURN_IF_ERROR(StartHttp(deps));
    listening_ = true;
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
    access_->Maintain();
    RefreshCertificates();
    free_memory_.Return();
  }

  void Drain() override {
    draining_ = true;
    PublishReady();
    obs::Log(obs::LogLevel::kInfo, "draining", {{"in_flight", admission_->in_flight()}});
    absl::SleepFor(settings_.lame_duck);
    Stop(absl::Now() + settings_.drain);
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
    metrics_.SetModelInfo(model_.name, model_.fingerprint, "", "");
    return absl::OkStatus();
  }

  absl::Status OpenCertificates() {
    if (settings_.tls_cert_file.empty()) return absl::OkStatus();
    const CertificatePaths paths = {settings_.tls_cert_file, settings_.tls_key_file,
                                    settings_.tls_client_ca_file};
    CHORD_ASSIGN_OR_RETURN(tls_, CertificateFiles::Open(paths, absl::Now()));
    metrics_.SetCertificateExpiry(tls_->current()->expires);
    return absl::OkStatus();
  }

  void RefreshCertificates() {
    if (tls_ == nullptr) return;
    std::string why;
    switch (tls_->Refresh(absl::Now(), &why)) {
      case CertificateFiles::Change::kNone:
        return;
      case CertificateFiles::Change::kRead:
        metrics_.CertificateReloaded(true);
        metrics_.SetCertificateExpiry(tls_->current()->expires);
        obs::Log(obs::LogLevel::kInfo, "certificates_read", {});
        return;
      case CertificateFiles::Change::kRefused:
        metrics_.CertificateReloaded(false);
        obs::Log(obs::LogLevel::kError, "certificates_refused", {{"why", why}});
        return;
    }
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
    options.local_address = settings_.local_address;
    options.tls = tls_;
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
    options.tls = tls_;
    options.on_handshake_failure = [this] { metrics_.TlsHandshakeFailed(); };
    options.identify = [this](const http::Route& route, http::Request& request) {
      return Identify(route, request);
    };
    options.response_fields = [this](const http::Route& route, const http::Request& request) {
      return LoadReport(route, request);
    };
    options.on_exchange = [this](const http::Server::Exchange& exchange) {
      // What a probe is told is not an answer or an error of the service.
      if (exchange.route == "/healthz" || exchange.route == "/readyz") return;
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
                                                 std::move(ready), MetricsPage());
    for (http::Route& route : WebPageRoutes(MakePageConfig())) routes.push_back(std::move(route));
    CHORD_ASSIGN_OR_RETURN(http_, http::Server::Start(options, std::move(routes)));
    return absl::OkStatus();
  }

  // The page and its files, probes and metrics are open; what answers requests is not.
  static bool IsGuarded(const http::Route& route) {
    return absl::StartsWith(route.path, "/api/") || absl::StartsWith(route.path, "/v1/");
  }

  absl::Status Identify(const http::Route& route, http::Request& request) const {
    Credentials credentials;
    credentials.peer = request.peer;
    for (const auto& [name, value] : request.fields) {
      if (name != "x-forwarded-for") continue;
      absl::StrAppend(&credentials.forwarded_for, credentials.forwarded_for.empty() ? "" : ",",
                      value);
    }
    if (!IsGuarded(route)) {
      request.peer = access_->AddressOf(credentials);
      return absl::OkStatus();
    }
    credentials.authorization = std::string(request.field("authorization"));
    credentials.api_key = std::string(request.field("x-api-key"));
    CHORD_ASSIGN_OR_RETURN(const Client client, access_->Identify(credentials));
    request.peer = client.id;
    request.key = client.key;
    return absl::OkStatus();
  }

  // Open Request Cost Aggregation, for balancers that weigh gateways: on demand, as a field of the
  // response.
  http::Fields LoadReport(const http::Route& route, const http::Request& request) {
    const absl::string_view format = request.field("endpoint-load-metrics-format");
    if (format.empty() || !IsGuarded(route)) return {};
    const WorkerPool::Load load = pool_->load();
    const double utilization =
        static_cast<double>(admission_->in_flight()) / settings_.max_in_flight;
    if (absl::EqualsIgnoreCase(format, "json")) {
      return {{"endpoint-load-metrics",
               absl::StrFormat("JSON {\"application_utilization\":%.4g,\"named_metrics\":{"
                               "\"running\":%d,\"waiting\":%d,\"kv_usage\":%.4g}}",
                               utilization, admission_->in_flight(), load.waiting, load.kv_usage)}};
    }
    if (!absl::EqualsIgnoreCase(format, "text")) return {};
    return {{"endpoint-load-metrics",
             absl::StrFormat("TEXT application_utilization=%.4g, named_metrics.running=%d, "
                             "named_metrics.waiting=%d, named_metrics.kv_usage=%.4g",
                             utilization, admission_->in_flight(), load.waiting, load.kv_usage)}};
  }

  http::Route MetricsPage() {
    // Asking the workers takes a moment, so that it must not happen on an I/O thread.
    http::Route route = http::MetricsRoute([this] { return Exposition(); });
    route.quick = !settings_.worker_metrics;
    return route;
  }

  std::string Exposition() {
    const WorkerPool::Load load = pool_->load();
    metrics_.SetLoad(admission_->in_flight(), load.waiting, load.kv_usage);
    std::string own = metrics_.Serialize();
    std::vector<obs::OtherExposition> others;
    if (settings_.worker_metrics) others = pool_->Metrics(absl::Now() + kMetricsTimeout);
    if (!settings_.metrics_file.empty()) {
      std::ifstream file(settings_.metrics_file);
      std::string text(kMaxMetricsFileBytes, '\0');
      file.read(text.data(), static_cast<std::streamsize>(text.size()));
      text.resize(static_cast<size_t>(std::max<std::streamsize>(0, file.gcount())));
      others.push_back({"supervisor", std::move(text)});
    }
    return others.empty() ? own : obs::MergeExpositions(own, others);
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
    const bool ready = workers_ready_ && listening_ && !draining_;
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
  std::atomic<bool> listening_{false};
  std::atomic<bool> draining_{false};
  std::atomic<bool> workers_ready_{false};
  std::unique_ptr<WorkerPool> pool_;
  std::unique_ptr<ImageService> image_service_;
  std::unique_ptr<Admission> admission_;
  std::unique_ptr<Grounder> grounder_;
  std::unique_ptr<Access> access_;
  std::shared_ptr<CertificateFiles> tls_;  // null: no TLS
  std::unique_ptr<Executor> executor_;
  rpc::CallRegistry calls_;
  FreeMemory free_memory_;
  std::vector<std::unique_ptr<grpc::Service>> services_;
  absl::Mutex mu_;  // for the pool's thread, which may tell of readiness at any time
  std::unique_ptr<rpc::Server> grpc_;
  std::unique_ptr<rpc::Server> grpc_stopped_;
  std::unique_ptr<http::Server> http_;
};

absl::StatusOr<std::unique_ptr<process::Worker>> Make(const config::v1::Settings& config,
                                                      obs::Metrics* metrics) {
  CHORD_ASSIGN_OR_RETURN(const Settings settings, CheckSettings(config.gateway()));
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
  process::Program program;
  program.role = obs::Role::kGateway;
  program.section = "gateway";
  program.check = [](const config::v1::Settings& config) {
    return CheckSettings(config.gateway()).status();
  };
  program.make = Make;
  return process::RunProcess(argc, argv, program);
}

}  // namespace chord::gateway
