#include "services/llm_worker/llm_worker.h"

namespace {

using chord::config::v1::Settings;

chord::process::Program Program() {
  chord::process::Program out;
  out.role = chord::obs::Role::kLlmWorker;
  out.section = "llm_worker";
  out.check = [](const Settings& settings) {
    return chord::llm_worker::CheckSettings(settings.llm_worker()).status();
  };
  out.make =
      [](const Settings& settings,
         chord::obs::Metrics* metrics) -> absl::StatusOr<std::unique_ptr<chord::process::Worker>> {
    auto checked = chord::llm_worker::CheckSettings(settings.llm_worker());
    if (!checked.ok()) return checked.status();
    return chord::llm_worker::LlmWorker::Start(*checked, metrics);
  };
  return out;
}

}  // namespace

int main(int argc, char** argv) { return chord::process::RunProcess(argc, argv, Program()); }
