// Sends every prompt of a data set to a running server: shared by `chord eval` and `chord
// calibrate`.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "chord/v1/grounding.pb.h"
#include "services/cli/client.h"
#include "services/cli/command_line.h"
#include "services/cli/eval/eval_data.h"
#include "services/cli/eval/eval_metrics.h"

namespace chord::cli {

struct DatasetRunOptions {
  std::string data;    // a file or a folder
  std::string images;  // folder; empty: beside the file
  EvalOptions format;
  int limit = 0;  // 0: all prompts
  int parallel = 4;
  int max_new_tokens = 0;
  double timeout_seconds = 60;
  std::string server = kDefaultGrpcAddress;
};

// Binds the options that both subcommands have.
void DeclareDatasetOptions(CommandLine& line, DatasetRunOptions& options);

// The data set, cut to options.limit prompts. CONFIG_INVALID says what cannot be read.
absl::StatusOr<EvalData> OpenEvalData(const DatasetRunOptions& options);

struct DatasetAnswer {
  v1::GroundResponse answer;
  std::string image_sha256;  // of the file that was sent
};

// One result for each prompt, in their order. A busy server is asked again, one that is being
// restarted is waited for. Reports progress and the first failures on standard error.
std::vector<absl::StatusOr<DatasetAnswer>> RunDataset(Client& client, const EvalData& data,
                                                      const DatasetRunOptions& options,
                                                      bool want_evidence);

// The answer as the metrics take it.
Scored Score(const EvalItem& item, const v1::GroundResponse& answer);

}  // namespace chord::cli
