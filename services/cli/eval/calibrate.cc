// `chord calibrate`: sends a data set with known boxes to a running server and fits how confidences
// follow from the model's probabilities.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/errors.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"
#include "common/grounding/confidence.h"
#include "common/model/model_config.h"
#include "services/cli/client.h"
#include "services/cli/command_line.h"
#include "services/cli/commands.h"
#include "services/cli/eval/confidence_fit.h"
#include "services/cli/eval/dataset_run.h"
#include "services/cli/files.h"
#include "services/cli/install_paths.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// Fewer boxes and absences than these tell nothing.
constexpr int64_t kMinClaims = 20;

struct Options {
  DatasetRunOptions run;
  std::string model, out;
  bool json = false;
};

// What to fit on. Nothing (and why) when the answer came without usable evidence.
absl::StatusOr<FitAnswer> ToFitAnswer(const EvalItem& item, const v1::GroundResponse& answer,
                                      const std::string& fingerprint) {
  if (!answer.has_evidence()) {
    return absl::FailedPreconditionError("the server sends no evidence for this answer");
  }
  const v1::Evidence& evidence = answer.evidence();
  if (evidence.version() != grounding::kEvidenceVersion) {
    return absl::FailedPreconditionError("the server is another version of Chord");
  }
  if (evidence.model_fingerprint() != fingerprint) {
    return absl::FailedPreconditionError("the server holds another model than --model");
  }
  const Scored scored = Score(item, answer);
  FitAnswer out;
  out.image = item.file;
  out.right = IsExact(scored);
  out.boxes_right = RightBoxes(scored);
  out.ends = evidence.ends();
  out.cut = evidence.cut();
  out.raw_confidence = evidence.raw_confidence();
  out.absent.assign(evidence.absent().begin(), evidence.absent().end());
  bool fine = static_cast<size_t>(evidence.boxes_size()) == scored.predicted.size() &&
              (!scored.predicted.empty() || out.absent.size() == grounding::kAbsentFeatures);
  for (const v1::BoxEvidence& box : evidence.boxes()) {
    fine = fine && box.features_size() == grounding::kBoxFeatures;
    out.boxes.emplace_back(box.features().begin(), box.features().end());
    out.raw_boxes.push_back(box.raw_confidence());
  }
  if (!fine) return absl::FailedPreconditionError("the server's evidence is not of this version");
  return out;
}

struct FitInput {
  std::vector<FitAnswer> answers;
  std::string sha256;  // of data set and images
  int64_t without_evidence = 0;
};

absl::StatusOr<FitInput> Collect(const EvalData& data,
                                 const std::vector<absl::StatusOr<DatasetAnswer>>& answers,
                                 const std::string& fingerprint) {
  FitInput out;
  Sha256 hash;
  hash.UpdateField(data.bytes);
  for (size_t i = 0; i < answers.size(); ++i) {
    // A map of whatever happened to be answered would look like one of the whole set.
    if (!answers[i].ok()) {
      return absl::FailedPreconditionError("not every prompt was answered; nothing is written.");
    }
    hash.UpdateField(answers[i]->image_sha256);
    absl::StatusOr<FitAnswer> one = ToFitAnswer(data.items[i], answers[i]->answer, fingerprint);
    if (one.ok()) {
      out.answers.push_back(*std::move(one));
    } else if (!answers[i]->answer.has_evidence()) {
      ++out.without_evidence;
    } else {
      return absl::FailedPreconditionError(
          absl::StrCat(one.status().message(), "; nothing is written."));
    }
  }
  out.sha256 = hash.HexDigest();
  return out;
}

std::string ReportJson(const std::string& path, const grounding::FittedOn& on,
                       const FitQuality& quality, int64_t without_evidence) {
  const Json out = {{"out", path},
                    {"questions", on.prompts},
                    {"unusable", without_evidence},
                    {"boxes", on.boxes},
                    {"boxes_right", on.boxes_right},
                    {"absences", on.absences},
                    {"absences_right", on.absences_right},
                    {"answers", on.answers},
                    {"answers_right", on.answers_right},
                    {"ece_before", quality.ece_raw},
                    {"ece_after", quality.ece},
                    {"ece_answers_before", quality.ece_answers_raw},
                    {"ece_answers_after", quality.ece_answers}};
  return out.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string ReportText(const std::string& path, const grounding::FittedOn& on,
                       const FitQuality& quality, int64_t without_evidence) {
  std::string out =
      "| fitted on | count | right | ECE raw | ECE fitted (5-fold) |\n|---|---:|---:|---:|---:|\n";
  absl::StrAppendFormat(&out, "| boxes | %d | %d | | |\n", on.boxes, on.boxes_right);
  absl::StrAppendFormat(&out, "| absences | %d | %d | | |\n", on.absences, on.absences_right);
  absl::StrAppendFormat(&out, "| boxes and absences | %d | %d | %.3f | %.3f |\n",
                        on.boxes + on.absences, on.boxes_right + on.absences_right, quality.ece_raw,
                        quality.ece);
  absl::StrAppendFormat(&out, "| answers as wholes | %d | %d | %.3f | %.3f |\n",
                        on.answers + on.absences, on.answers_right + on.absences_right,
                        quality.ece_answers_raw, quality.ece_answers);
  if (without_evidence > 0) {
    absl::StrAppendFormat(&out, "\n%d answers had no probabilities to fit on.\n", without_evidence);
  }
  absl::StrAppend(&out, "\nWritten to ", path, ". The gateway reads it when it starts.\n");
  return out;
}

absl::StatusOr<int> Calibrate(const Options& options, const CommandLine& line) {
  const std::string model = options.model.empty() ? DefaultModelDir() : options.model;
  if (model.empty()) {
    return errors::ConfigInvalid("chord-nano is not beside this installation; give --model DIR.");
  }
  CHORD_ASSIGN_OR_RETURN(const std::string fingerprint, model::Fingerprint(model));
  const std::string path =
      options.out.empty() ? (fs::path(model) / grounding::kConfidenceFile).string() : options.out;
  CHORD_RETURN_IF_ERROR(CheckGrpcAddress(options.run.server));
  CHORD_RETURN_IF_ERROR(CheckWritable(path));
  CHORD_ASSIGN_OR_RETURN(const EvalData data, OpenEvalData(options.run));
  const std::unique_ptr<Client> client = MakeGrpcClient(options.run.server);

  const absl::StatusOr<FitInput> input =
      Collect(data, RunDataset(*client, data, options.run, /*want_evidence=*/true), fingerprint);
  if (!input.ok()) return line.Fail(input.status().message(), kExitFailed);
  grounding::ConfidenceMap map = FitConfidence(input->answers);
  grounding::FittedOn& on = map.fitted_on;
  if (on.boxes + on.absences < kMinClaims) {
    return line.Fail(absl::StrCat(on.boxes + on.absences,
                                  " boxes and absences with evidence are too few to fit on."),
                     kExitFailed);
  }
  const FitQuality quality = CrossValidate(input->answers);
  map.model_fingerprint = fingerprint;
  on.data = data.name;
  on.sha256 = input->sha256;
  on.ece_raw = quality.ece_raw;
  on.ece_cross_validated = quality.ece;
  const std::string text = grounding::ToJson(map);
  // What is written must be what the gateway accepts.
  CHORD_RETURN_IF_ERROR(grounding::ParseConfidenceMap(text).status());
  if (const absl::Status status = WriteWhole(path, text); !status.ok()) {
    return line.Fail(status.message(), kExitFailed);
  }
  const auto report = options.json ? ReportJson : ReportText;
  std::fputs(report(path, on, quality, input->without_evidence).c_str(), stdout);
  return kExitOk;
}

}  // namespace

int RunCalibrate(const std::vector<std::string>& args) {
  Options options;
  CommandLine line(
      "chord calibrate",
      "Sends a data set with known boxes to a running server and fits how confidences "
      "follow from\nthe model's probabilities. The gateway reads the map when it starts.",
      "Exit code: 0 when the map was written, 1 otherwise, 2 wrong command line.");
  DeclareDatasetOptions(line, options.run);
  line.Text("model", &options.model, "DIR", "The model that serves (default: chord-nano)");
  line.Text("out", &options.out, "FILE", "Default: confidence.json of the model");
  line.Switch("json", &options.json, "The summary as one JSON object");
  if (const std::optional<int> code = line.Parse(args)) return *code;
  const absl::StatusOr<int> code = Calibrate(options, line);
  return code.ok() ? *code : line.Fail(code.status().message(), kExitUsage);
}

}  // namespace chord::cli
