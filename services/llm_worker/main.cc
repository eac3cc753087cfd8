#include "chord/config/v1/config.pb.h"
#include "common/base/status_macros.h"
#include "common/config/config.h"
#include "services/llm_worker/llm_worker.h"

namespace {

absl::StatusOr<std::unique_ptr<chord::process::Worker>> Make(const std::vector<std::string>& args,
                                                             chord::obs::Metrics* metrics) {
  chord::config::v1::LlmWorker settings_proto;
  CHORD_RETURN_IF_ERROR(chord::config::ApplyFlags(args, &settings_proto));
  CHORD_ASSIGN_OR_RETURN(auto settings, chord::llm_worker::CheckSettings(settings_proto));
  return chord::llm_worker::LlmWorker::Start(settings, metrics);
}

}  // namespace

int main(int argc, char** argv) {
  return chord::process::RunProcess(argc, argv, chord::obs::Role::kLlmWorker, Make);
}
