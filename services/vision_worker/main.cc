#include "services/vision_worker/vision_worker.h"

namespace {

using chord::config::v1::Settings;

chord::process::Program Program() {
  chord::process::Program out;
  out.role = chord::obs::Role::kVisionWorker;
  out.section = "vision_worker";
  out.check = [](const Settings& settings) {
    return chord::vision_worker::CheckSettings(settings.vision_worker()).status();
  };
  out.make =
      [](const Settings& settings,
         chord::obs::Metrics* metrics) -> absl::StatusOr<std::unique_ptr<chord::process::Worker>> {
    auto checked = chord::vision_worker::CheckSettings(settings.vision_worker());
    if (!checked.ok()) return checked.status();
    return chord::vision_worker::VisionWorker::Start(*checked, metrics);
  };
  return out;
}

}  // namespace

int main(int argc, char** argv) { return chord::process::RunProcess(argc, argv, Program()); }
