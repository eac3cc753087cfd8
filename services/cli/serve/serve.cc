// `chord serve`: gateway, vision worker and language worker on this host under one supervisor.
#include <stdlib.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "chord/config/v1/config.pb.h"
#include "common/base/atomic_file.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/config/settings.h"
#include "common/obs/log.h"
#include "common/process/logging.h"
#include "services/cli/command_line.h"
#include "services/cli/commands.h"
#include "services/cli/serve/listen_address.h"
#include "services/cli/serve/one_host.h"
#include "services/cli/serve/supervisor.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;

// The command line. Named options are short forms of settings.
struct Options {
  std::string config, model, http, grpc, vision_device, language_device, dtype, threads;
  std::vector<std::string> gateway, vision, language, settings;
};

void Declare(CommandLine& line, Options& o) {
  line.Text("config", &o.config, "FILE", "Settings file (YAML; docs/settings.md)");
  line.Repeated("set", &o.settings, "NAME=VALUE",
                "A setting by its path, for example gateway.max_in_flight=16; repeatable");
  line.Text("model", &o.model, "DIR",
            "Hugging Face folder of a Qwen2.5-VL model (default: chord-nano)");
  line.Text("http", &o.http, "[HOST:]PORT",
            "HTTP, web page and metrics (default 127.0.0.1:8080; port 0: any free one)");
  line.Text("grpc", &o.grpc, "[HOST:]PORT", "gRPC (default 127.0.0.1:50051; port 0: any free one)");
  line.Text("vision-device", &o.vision_device, "D", "auto, cpu or cuda:N (default auto)");
  line.Text("language-device", &o.language_device, "D", "auto, cpu or cuda:N (default auto)");
  line.Text(
      "dtype", &o.dtype, "T",
      "auto, fp32, bf16 or fp16 for both workers, or int8 or int4 for the language worker on a "
      "CPU (default auto)");
  line.Text("threads", &o.threads, "N", "CPU threads of each worker (default: all cores)");
  line.Repeated("gateway-flag", &o.gateway, "F",
                "A setting of the gateway, for example max_in_flight=16; repeatable");
  line.Repeated("vision-flag", &o.vision, "F", "A setting of the vision worker; repeatable");
  line.Repeated("language-flag", &o.language, "F", "A setting of the language worker; repeatable");
}

// The command line as flags of settings by their paths.
std::vector<std::string> ToFlags(const CommandLine& line, const Options& o) {
  std::vector<std::string> out;
  const auto set = [&](const char* option, std::initializer_list<const char*> paths,
                       const std::string& value) {
    if (!line.Has(option)) return;
    for (const char* path : paths) out.push_back(absl::StrCat("--", path, "=", value));
  };
  set("config", {"config"}, o.config);
  set("model", {"gateway.model_dir", "vision_worker.model_dir", "llm_worker.model_dir"}, o.model);
  set("http", {"gateway.http_address"}, o.http);
  set("grpc", {"gateway.grpc_address"}, o.grpc);
  set("vision-device", {"vision_worker.device"}, o.vision_device);
  set("language-device", {"llm_worker.device"}, o.language_device);
  set("dtype", {"llm_worker.dtype"}, o.dtype);
  // The vision tower is packed only where its own setting asks for it.
  if (!absl::StartsWith(o.dtype, "int")) set("dtype", {"vision_worker.dtype"}, o.dtype);
  set("threads", {"vision_worker.threads", "llm_worker.threads"}, o.threads);
  const auto append = [&](const char* section, const std::vector<std::string>& settings) {
    for (absl::string_view setting : settings) {
      absl::ConsumePrefix(&setting, "--");
      out.push_back(absl::StrCat("--", section, setting));
    }
  };
  append("gateway.", o.gateway);
  append("vision_worker.", o.vision);
  append("llm_worker.", o.language);
  append("", o.settings);
  return out;
}

// A folder for the sockets between our processes that no other user can enter.
absl::StatusOr<std::string> MakeSocketFolder() {
  const char* base = getenv("XDG_RUNTIME_DIR");
  std::string folder = absl::StrCat(base != nullptr ? base : "/tmp", "/chord-XXXXXX");
  if (folder.size() + std::strlen("/language.sock") >= sizeof(sockaddr_un::sun_path)) {
    return errors::ConfigInvalid(
        "XDG_RUNTIME_DIR is too long for a unix socket; set it to a shorter path.");
  }
  if (mkdtemp(folder.data()) == nullptr) {
    return errors::ConfigInvalid(
        "Cannot make a folder for sockets; set XDG_RUNTIME_DIR to one that can be written.");
  }
  return folder;
}

// Concrete addresses in place of port 0, kept over restarts of the gateway.
absl::Status ReserveAddresses(config::v1::Gateway* gateway) {
  if (gateway->http_address().empty()) gateway->set_http_address("127.0.0.1:8080");
  if (gateway->grpc_address().empty()) gateway->set_grpc_address("127.0.0.1:50051");
  CHORD_ASSIGN_OR_RETURN(const std::string http,
                         ReserveListenAddress(gateway->http_address(), "http"));
  gateway->set_http_address(http);
  if (absl::StartsWith(gateway->grpc_address(), "unix:")) return absl::OkStatus();
  CHORD_ASSIGN_OR_RETURN(const std::string grpc,
                         ReserveListenAddress(gateway->grpc_address(), "grpc"));
  gateway->set_grpc_address(grpc);
  return absl::OkStatus();
}

// The processes get the settings as they are now, also those that are started again later: a file
// that is being edited must not end a service.
absl::StatusOr<std::string> WriteSettings(const std::string& folder,
                                          const config::v1::Settings& settings) {
  std::string file = absl::StrCat(folder, "/settings.yaml");
  const std::string text = config::ToYamlFile(settings);
  CHORD_RETURN_IF_ERROR(WriteFileAtomically(file, {text}));
  config::UnsetVariables();
  return file;
}

void Announce(const config::v1::Gateway& gateway, absl::Duration took) {
  const std::string local = LocalAddressOf(gateway.http_address());
  const char* scheme = gateway.tls_cert_file().empty() ? "http" : "https";
  std::printf(
      "Chord is ready after %.1f s.\n"
      "  HTTP  %s://%s/api/ground\n"
      "  gRPC  %s\n"
      "  Page  %s://%s/\n",
      absl::ToDoubleSeconds(took), scheme, gateway.http_address().c_str(),
      gateway.grpc_address().c_str(), scheme, local.c_str());
  std::fflush(stdout);
  clearerr(stdout);  // the output may have been closed
}

absl::StatusOr<int> Serve(const std::vector<std::string>& flags) {
  CHORD_ASSIGN_OR_RETURN(
      const config::LoadedSettings loaded,
      config::LoadSettings({.args = flags, .section = "", .environment = config::Environment()}));
  config::v1::Settings settings = loaded.values;
  CHORD_RETURN_IF_ERROR(ReserveAddresses(settings.mutable_gateway()));
  CHORD_ASSIGN_OR_RETURN(const std::string folder, MakeSocketFolder());
  const absl::Cleanup remove_folder = [&] {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
  };
  CHORD_RETURN_IF_ERROR(CompleteForOneHost(folder, &settings));
  CHORD_ASSIGN_OR_RETURN(Supervisor::Options options, SupervisorOptions(settings.serve()));
  obs::Metrics metrics(obs::Role::kSupervisor, CHORD_VERSION);
  options.metrics = &metrics;
  options.metrics_file = settings.gateway().metrics_file();
  options.manager = process::ServiceManager::FromEnvironment();
  CHORD_ASSIGN_OR_RETURN(const std::string file, WriteSettings(folder, settings));
  const std::vector<ChildProcess> processes = OneHostProcesses(file, settings);
  CHORD_RETURN_IF_ERROR(CheckPrograms(processes));
  CHORD_RETURN_IF_ERROR(process::StartLogging(settings.log(), obs::Role::kSupervisor, &metrics));
  const absl::Cleanup stop_log = [] { obs::StopLog(); };
  return Supervisor(std::move(options), processes).Run([&](absl::Duration took) {
    Announce(settings.gateway(), took);
  });
}

}  // namespace

int RunServe(const std::vector<std::string>& args) {
  Options options;
  CommandLine line("chord serve",
                   "Runs gateway, vision worker and language worker on this host, and restarts the "
                   "ones\nthat end, hang or grow too large.",
                   "Exit code: 0 after a signal and a drain, 1 a program cannot be run, 2 wrong "
                   "settings, 4 a process\nended again and again before it was ready.");
  Declare(line, options);
  if (const std::optional<int> code = line.Parse(args)) return *code;
  const absl::StatusOr<int> code = Serve(ToFlags(line, options));
  return code.ok() ? *code : line.Fail(code.status().message(), kExitUsage);
}

}  // namespace chord::cli
