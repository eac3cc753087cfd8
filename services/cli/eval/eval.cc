// `chord eval`: sends a data set with known boxes to a running server and measures the answers.
// docs/eval.md defines every figure.
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/errors.h"
#include "common/base/status_macros.h"
#include "services/cli/client.h"
#include "services/cli/command_line.h"
#include "services/cli/commands.h"
#include "services/cli/eval/dataset_run.h"
#include "services/cli/eval/eval_report.h"
#include "services/cli/files.h"

namespace chord::cli {
namespace {

struct Options {
  DatasetRunOptions run;
  std::string http;  // empty: gRPC
  std::string plot;
  bool json = false;
};

absl::StatusOr<std::unique_ptr<Client>> Connect(const Options& options) {
  if (!options.http.empty()) return MakeHttpClient(options.http);
  CHORD_RETURN_IF_ERROR(CheckGrpcAddress(options.run.server));
  return MakeGrpcClient(options.run.server);
}

EvalReport Measure(const EvalData& data,
                   const std::vector<absl::StatusOr<DatasetAnswer>>& answers) {
  EvalReport out;
  int64_t calibrated = 0;
  for (size_t i = 0; i < answers.size(); ++i) {
    if (!answers[i].ok()) {
      ++out.failed;
      continue;
    }
    const v1::GroundResponse& answer = answers[i]->answer;
    const Scored scored = Score(data.items[i], answer);
    out.all.Add(scored);
    out.groups[data.items[i].group].Add(scored);
    calibrated += answer.calibrated();
    out.model = answer.model();
  }
  out.calibrated = out.all.count > 0 && calibrated == out.all.count;
  return out;
}

// An error is one of the command line or of what it names.
absl::StatusOr<int> Eval(const Options& options, const CommandLine& line) {
  if (line.Has("http") && line.Has("server")) {
    return errors::ConfigInvalid("Give --server or --http, not both.");
  }
  CHORD_ASSIGN_OR_RETURN(const std::unique_ptr<Client> client, Connect(options));
  if (!options.plot.empty()) CHORD_RETURN_IF_ERROR(CheckWritable(options.plot));
  CHORD_ASSIGN_OR_RETURN(const EvalData data, OpenEvalData(options.run));
  const EvalReport report =
      Measure(data, RunDataset(*client, data, options.run, /*want_evidence=*/false));
  if (options.json) {
    std::fputs(EvalJson(report).c_str(), stdout);
  } else if (report.all.count > 0) {
    std::fputs(EvalText(report).c_str(), stdout);
  }
  if (!options.plot.empty()) {
    const absl::Status status = WriteReliabilityPlot(report.all.claims, options.plot);
    if (!status.ok()) return line.Fail(status.message(), kExitFailed);
  }
  return report.failed == 0 ? kExitOk : kExitFailed;
}

}  // namespace

int RunEval(const std::vector<std::string>& args) {
  Options options;
  CommandLine line(
      "chord eval",
      "Sends a data set with known boxes to a running server; prints Acc@0.5, mean "
      "IoU, exactness\nof several, accuracy of absence and calibration error.",
      "Exit code: 0 when every prompt was answered, 1 otherwise, 2 wrong command line.");
  DeclareDatasetOptions(line, options.run);
  line.Text("http", &options.http, "ADDR", "Use HTTP at HOST:PORT instead of gRPC");
  line.Switch("json", &options.json, "One JSON object");
  line.Text("plot", &options.plot, "OUT.png", "Draw the reliability curve");
  if (const std::optional<int> code = line.Parse(args)) return *code;
  const absl::StatusOr<int> code = Eval(options, line);
  return code.ok() ? *code : line.Fail(code.status().message(), kExitUsage);
}

}  // namespace chord::cli
