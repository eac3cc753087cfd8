#include "services/cli/serve/one_host.h"

#include <unistd.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "services/cli/install_paths.h"

namespace chord::cli {
namespace {

template <typename Section>
absl::Status SetModel(const std::string& fallback, Section* section) {
  if (section->model_dir().empty()) section->set_model_dir(fallback);
  if (section->model_dir().empty()) {
    return errors::ConfigInvalid("chord-nano is not beside this installation; give --model DIR.");
  }
  std::error_code error;
  if (!std::filesystem::is_directory(section->model_dir(), error)) {
    return errors::ConfigInvalid(
        absl::StrCat("--model: there is no folder ", section->model_dir(), "."));
  }
  return absl::OkStatus();
}

void SetPeer(const std::string& name, const std::string& address,
             google::protobuf::RepeatedPtrField<config::v1::Peer>* peers) {
  peers->Clear();
  config::v1::Peer* peer = peers->Add();
  peer->set_name(name);
  peer->set_address(address);
}

// Longer than the processes' own drain time.
constexpr absl::Duration kStopSlack = absl::Seconds(5);
constexpr absl::Duration kDefaultDrain = absl::Seconds(10);

// 0 stands for the default.
absl::Duration Or(double seconds, absl::Duration otherwise) {
  return seconds > 0 ? absl::Seconds(seconds) : otherwise;
}

absl::Status Range(absl::string_view name, double value, double low, double high) {
  if (value == 0 || (value >= low && value <= high)) return absl::OkStatus();
  return errors::ConfigInvalid(
      absl::StrCat("The setting serve.", name, " must be between ", low, " and ", high, "."));
}

ChildWatch::Limits WatchLimits(const config::v1::Serve& serve,
                               const config::v1::MemoryLimit& memory) {
  ChildWatch::Limits out;
  out.start_within = Or(serve.start_seconds(), out.start_within);
  out.hang_after = Or(serve.hang_seconds(), out.hang_after);
  out.soft_bytes = memory.soft_bytes();
  out.hard_bytes = memory.hard_bytes();
  return out;
}

}  // namespace

absl::Status CompleteForOneHost(const std::string& socket_folder, config::v1::Settings* settings) {
  const std::string model =
      settings->model_dir().empty() ? DefaultModelDir() : settings->model_dir();
  config::v1::Gateway* gateway = settings->mutable_gateway();
  config::v1::VisionWorker* vision = settings->mutable_vision_worker();
  config::v1::LlmWorker* language = settings->mutable_llm_worker();
  CHORD_RETURN_IF_ERROR(SetModel(model, gateway));
  CHORD_RETURN_IF_ERROR(SetModel(model, vision));
  CHORD_RETURN_IF_ERROR(SetModel(model, language));
  vision->set_address(absl::StrCat("unix:", socket_folder, "/vision.sock"));
  language->set_address(absl::StrCat("unix:", socket_folder, "/language.sock"));
  gateway->set_local_address(absl::StrCat("unix:", socket_folder, "/gateway.sock"));
  gateway->set_worker_metrics(true);
  gateway->set_metrics_file(absl::StrCat(socket_folder, "/supervisor.prom"));
  SetPeer("vision-0", vision->address(), gateway->mutable_vision_workers());
  SetPeer("language-0", language->address(), gateway->mutable_language_workers());
  SetPeer("language-0", language->address(), vision->mutable_language_workers());
  return absl::OkStatus();
}

std::vector<ChildProcess> OneHostProcesses(const std::string& file,
                                           const config::v1::Settings& settings) {
  const std::string config = absl::StrCat("--config=", file);
  const config::v1::Serve& serve = settings.serve();
  const auto process = [&](const char* role, obs::Role name, const char* service,
                           const auto& section, const std::string& address,
                           const config::v1::MemoryLimit& memory) {
    ChildProcess out;
    out.role = role;
    out.process = name;
    out.command = {Sibling(absl::StrCat("chord_", Name(name))), config};
    out.health_address = address;
    out.ready_service = service;
    out.limits = WatchLimits(serve, memory);
    out.limits.drain = kStopSlack + Or(section.drain_seconds(), kDefaultDrain);
    return out;
  };
  std::vector<ChildProcess> out = {
      process("language worker", obs::Role::kLlmWorker, "chord.internal.v1.Language",
              settings.llm_worker(), settings.llm_worker().address(), serve.llm_worker_memory()),
      process("vision worker", obs::Role::kVisionWorker, "chord.internal.v1.Vision",
              settings.vision_worker(), settings.vision_worker().address(),
              serve.vision_worker_memory()),
      process("gateway", obs::Role::kGateway, "chord.v1.Grounding", settings.gateway(),
              settings.gateway().local_address(), serve.gateway_memory())};
  out.back().limits.drain += Or(settings.gateway().lame_duck_seconds(), absl::Seconds(1));
  return out;
}

absl::StatusOr<Supervisor::Options> SupervisorOptions(const config::v1::Serve& settings) {
  CHORD_RETURN_IF_ERROR(Range("probe_seconds", settings.probe_seconds(), 0.05, 60));
  CHORD_RETURN_IF_ERROR(Range("hang_seconds", settings.hang_seconds(), 1, 3600));
  CHORD_RETURN_IF_ERROR(Range("start_seconds", settings.start_seconds(), 1, 3600));
  CHORD_RETURN_IF_ERROR(Range("max_failed_starts", settings.max_failed_starts(), 1, 1'000'000));
  for (const config::v1::MemoryLimit* limit :
       {&settings.gateway_memory(), &settings.vision_worker_memory(),
        &settings.llm_worker_memory()}) {
    for (int64_t bytes : {limit->soft_bytes(), limit->hard_bytes()}) {
      CHORD_RETURN_IF_ERROR(Range("…_memory", static_cast<double>(bytes), 1 << 20, 1e15));
    }
  }
  Supervisor::Options out;
  out.probe_every = Or(settings.probe_seconds(), out.probe_every);
  if (settings.max_failed_starts() > 0) out.max_failed_starts = settings.max_failed_starts();
  return out;
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

}  // namespace chord::cli
