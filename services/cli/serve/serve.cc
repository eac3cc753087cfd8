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
#include "absl/synchronization/notification.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "common/http/client.h"
#include "services/cli/command_line.h"
#include "services/cli/commands.h"
#include "services/cli/install_paths.h"
#include "services/cli/serve/listen_address.h"
#include "services/cli/serve/supervisor.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kProbeTimeout = absl::Milliseconds(300);

struct Options {
  std::string model;
  std::string http = "127.0.0.1:8080";
  std::string grpc = "127.0.0.1:50051";
  std::string vision_device = "auto", language_device = "auto";
  std::string dtype, threads;  // empty: the workers' own default
  std::vector<std::string> gateway_flags, vision_flags, language_flags;
};

void Declare(CommandLine& line, Options& o) {
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
  line.Repeated("gateway-flag", &o.gateway_flags, "F",
                "A setting of the gateway, for example max_in_flight=16; repeatable");
  line.Repeated("vision-flag", &o.vision_flags, "F", "A setting of the vision worker; repeatable");
  line.Repeated("language-flag", &o.language_flags, "F",
                "A setting of the language worker; repeatable");
}

absl::Status CheckModel(Options& options) {
  if (options.model.empty()) options.model = DefaultModelDir();
  if (options.model.empty()) {
    return errors::ConfigInvalid("chord-nano is not beside this installation; give --model DIR.");
  }
  std::error_code error;
  if (!fs::is_directory(options.model, error)) {
    return errors::ConfigInvalid(absl::StrCat("--model: there is no folder ", options.model, "."));
  }
  return absl::OkStatus();
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

// Settings as the process takes them: "--name=value", however they were written.
void AppendFlags(const std::vector<std::string>& flags, std::vector<std::string>& command) {
  for (absl::string_view flag : flags) {
    absl::ConsumePrefix(&flag, "--");
    command.push_back(absl::StrCat("--", flag));
  }
}

ChildProcess Worker(const Options& options, const std::string& role, const std::string& program,
                    const std::string& address, const std::string& device) {
  ChildProcess out{role,
                   {Sibling(program), absl::StrCat("--model_dir=", options.model),
                    absl::StrCat("--address=", address), absl::StrCat("--device=", device)}};
  // The vision tower is packed only where it is asked for by its own setting.
  const bool packed = absl::StartsWith(options.dtype, "int");
  if (!options.dtype.empty() && (!packed || role == "language worker")) {
    out.command.push_back(absl::StrCat("--dtype=", options.dtype));
  }
  if (!options.threads.empty()) out.command.push_back(absl::StrCat("--threads=", options.threads));
  return out;
}

// Workers first: the gateway is ready only when they are.
std::vector<ChildProcess> Processes(const Options& options, const std::string& socket_folder) {
  const std::string vision = absl::StrCat("unix:", socket_folder, "/vision.sock");
  const std::string language = absl::StrCat("unix:", socket_folder, "/language.sock");
  const std::string language_peer = absl::StrCat("--language_workers=language-0=", language);
  ChildProcess llm =
      Worker(options, "language worker", "chord_llm_worker", language, options.language_device);
  AppendFlags(options.language_flags, llm.command);
  ChildProcess vit =
      Worker(options, "vision worker", "chord_vision_worker", vision, options.vision_device);
  vit.command.push_back(language_peer);
  AppendFlags(options.vision_flags, vit.command);
  ChildProcess gateway{
      "gateway",
      {Sibling("chord_gateway"), absl::StrCat("--model_dir=", options.model),
       absl::StrCat("--http_address=", options.http), absl::StrCat("--grpc_address=", options.grpc),
       absl::StrCat("--vision_workers=vision-0=", vision), language_peer}};
  AppendFlags(options.gateway_flags, gateway.command);
  return {llm, vit, gateway};
}

absl::Status CheckPrograms(const std::vector<ChildProcess>& processes) {
  for (const ChildProcess& process : processes) {
    if (access(process.command[0].c_str(), X_OK) != 0) {
      return errors::ConfigInvalid(
          absl::StrCat("The program of the ", process.role,
                       " is not beside chord; build or install all of Chord."));
    }
  }
  return absl::OkStatus();
}

bool IsReady(http::Client& client) {
  http::ClientRequest request;
  request.method = "GET";
  request.path = "/readyz";
  request.timeout = kProbeTimeout;
  bool ready = false;
  absl::Notification done;
  client.Send(std::move(request), nullptr, [&](const absl::StatusOr<http::Response>& response) {
    ready = response.ok() && response->status == 200;
    done.Notify();
  });
  done.WaitForNotification();
  return ready;
}

void Announce(const Options& options, absl::Duration took) {
  const std::string local = LocalAddressOf(options.http);
  std::printf(
      "Chord is ready after %.1f s.\n"
      "  HTTP  http://%s/api/ground\n"
      "  gRPC  %s\n"
      "  Page  http://%s/\n",
      absl::ToDoubleSeconds(took), options.http.c_str(), options.grpc.c_str(), local.c_str());
  std::fflush(stdout);
  clearerr(stdout);  // the output may have been closed
}

absl::StatusOr<int> Serve(Options options) {
  CHORD_RETURN_IF_ERROR(CheckModel(options));
  CHORD_ASSIGN_OR_RETURN(options.http, ReserveListenAddress(options.http, "http"));
  CHORD_ASSIGN_OR_RETURN(options.grpc, ReserveListenAddress(options.grpc, "grpc"));
  CHORD_ASSIGN_OR_RETURN(const std::string folder, MakeSocketFolder());
  const absl::Cleanup remove_folder = [&] {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
  };
  const std::vector<ChildProcess> processes = Processes(options, folder);
  CHORD_RETURN_IF_ERROR(CheckPrograms(processes));
  // The client's thread starts after the first fork.
  std::unique_ptr<http::Client> probe;
  const auto ready = [&] {
    if (probe == nullptr) {
      auto started = http::Client::Start({.address = LocalAddressOf(options.http)});
      if (!started.ok()) return false;
      probe = *std::move(started);
    }
    return IsReady(*probe);
  };
  return Supervisor(processes).Run(ready, [&](absl::Duration took) {
    probe.reset();
    Announce(options, took);
  });
}

}  // namespace

int RunServe(const std::vector<std::string>& args) {
  Options options;
  CommandLine line("chord serve",
                   "Runs gateway, vision worker and language worker on this host, and restarts the "
                   "ones\nthat end.");
  Declare(line, options);
  if (const std::optional<int> code = line.Parse(args)) return *code;
  const absl::StatusOr<int> code = Serve(options);
  return code.ok() ? *code : line.Fail(code.status().message(), kExitUsage);
}

}  // namespace chord::cli
