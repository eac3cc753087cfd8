// `chord eval` and `chord calibrate`: ask a running Chord about a data set with known boxes,
// measure its answers, and fit the model's confidence map. docs/eval.md defines every figure.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"
#include "common/grounding/confidence.h"
#include "common/image/image.h"
#include "common/model/model_config.h"
#include "services/cli/args.h"
#include "services/cli/client.h"
#include "services/cli/commands.h"
#include "services/cli/eval/confidence_fit.h"
#include "services/cli/eval/eval_data.h"
#include "services/cli/eval/eval_metrics.h"
#include "services/cli/files.h"
#include "services/cli/install_paths.h"
#include "services/cli/plot/reliability.h"

namespace chord::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr char kAskHelp[] =
    "  DATA                 scenes, COCO or RefCOCO as JSON: the file, or a folder that holds it\n"
    "  --server ADDR        HOST:PORT or unix:PATH of the gateway's gRPC (default "
    "127.0.0.1:50051)\n"
    "  --images DIR         the images (default: beside the file)\n"
    "  --split NAME         RefCOCO: this split alone\n"
    "  --absent N           COCO without prompts: things an image lacks, 0 to 10 (default 1)\n"
    "  --limit N            the first N prompts alone\n"
    "  --parallel N         prompts under way together, 1 to 64 (default 4)\n"
    "  --timeout SECONDS    for each prompt (default 60)\n"
    "  --max-new-tokens N   longest answer, 1 to 4096\n";
constexpr char kEvalHelp[] =
    "chord eval DATA [--server ADDR | --http ADDR] [--json] [--plot OUT.png]\n"
    "  Asks about a data set with known boxes; prints Acc@0.5, mean IoU, exactness of several,\n"
    "  accuracy of absence and calibration error.\n";
constexpr char kEvalMore[] =
    "  --http ADDR          ask over HTTP at HOST:PORT instead\n"
    "  --json               one JSON object\n"
    "  --plot OUT.png       draw the reliability curve\n"
    "Exit code: 0 when every prompt was answered, 1 otherwise, 2 for a wrong command line.\n";
constexpr char kCalibrateHelp[] =
    "chord calibrate DATA [--model DIR] [--out FILE] [--server ADDR]\n"
    "  Asks about a data set with known boxes and fits how confidences follow from the model's\n"
    "  probabilities. The gateway reads the map when it starts.\n"
    "  --model DIR          the model that serves (default: chord-nano)\n"
    "  --out FILE           default: confidence.json of the model\n"
    "  --json               the summary as one JSON object\n";
constexpr char kCalibrateMore[] =
    "Exit code: 0 when the map was written, 1 otherwise, 2 for a wrong command line.\n";

// Fewer than these tell nothing.
constexpr int64_t kLeastClaims = 20;
constexpr int kTries = 8;

absl::StatusOr<int> IntFlag(const Args& args, const std::string& name, int fallback, int low,
                            int high) {
  int value = fallback;
  if (args.Has(name) &&
      (!absl::SimpleAtoi(args.Get(name), &value) || value < low || value > high)) {
    return errors::ParameterInvalid(absl::StrCat("--", name),
                                    absl::StrCat("an integer from ", low, " to ", high));
  }
  return value;
}

struct AskOptions {
  EvalOptions data;
  std::string images;
  int limit = 0;
  int parallel = 4;
  int max_new_tokens = 0;
  absl::Duration timeout;
};

std::vector<FlagSpec> AskFlags(std::vector<FlagSpec> more) {
  for (const char* name :
       {"server", "images", "split", "absent", "limit", "parallel", "timeout", "max-new-tokens"}) {
    more.push_back({name});
  }
  more.push_back({"json", false});
  more.push_back({"help", false});
  return more;
}

absl::StatusOr<AskOptions> ReadAskOptions(const Args& args) {
  AskOptions out;
  out.images = args.Get("images");
  out.data.split = args.Get("split");
  CHORD_ASSIGN_OR_RETURN(out.data.absent_per_image, IntFlag(args, "absent", 1, 0, 10));
  CHORD_ASSIGN_OR_RETURN(out.limit, IntFlag(args, "limit", 0, 1, 2'000'000));
  CHORD_ASSIGN_OR_RETURN(out.parallel, IntFlag(args, "parallel", 4, 1, 64));
  CHORD_ASSIGN_OR_RETURN(out.max_new_tokens,
                         IntFlag(args, "max-new-tokens", 0, 1, limits::kCeilingNewTokens));
  double seconds = 60;
  if (!absl::SimpleAtod(args.Get("timeout", "60"), &seconds) || !(seconds > 0 && seconds <= 3600)) {
    return errors::ParameterInvalid("--timeout", "a number of seconds up to 3600");
  }
  out.timeout = absl::Seconds(seconds);
  if (args.positional.size() != 1) {
    return errors::ConfigInvalid("Give one data set, a file or a folder; see --help.");
  }
  return out;
}

absl::StatusOr<EvalData> Load(const std::string& path, const AskOptions& options) {
  CHORD_ASSIGN_OR_RETURN(EvalData data, LoadEvalData(path, options.images, options.data));
  if (options.limit > 0 && static_cast<size_t>(options.limit) < data.items.size()) {
    data.items.resize(static_cast<size_t>(options.limit));
  }
  return data;
}

struct Asked {
  v1::GroundResponse answer;
  std::string image_sha256;
};

// What all prompts know of the server.
struct Reached {
  std::atomic<bool> ever{false};  // it has said something
  std::atomic<bool> gone{false};  // it does not come back: nothing more is asked
};

absl::StatusOr<Asked> AskOnce(Client& client, const EvalData& data, const EvalItem& item,
                              const AskOptions& options, bool evidence, Reached& reached) {
  Asked out;
  CHORD_ASSIGN_OR_RETURN(
      const std::string image,
      ReadWhole((fs::path(data.images) / item.file).string(), limits::kCeilingImageBytes));
  Sha256 hash;
  hash.Update(image);
  out.image_sha256 = hash.HexDigest();
  const GroundRequestData prompt{.image = image,
                                 .prompt = item.prompt,
                                 .max_new_tokens = options.max_new_tokens,
                                 .want_evidence = evidence,
                                 .timeout = options.timeout};
  // A server that is full says so, one that is being restarted comes back; the summary must not
  // depend on it.
  absl::Duration wait = absl::Milliseconds(200);
  for (int attempt = 1;; ++attempt) {
    absl::StatusOr<v1::GroundResponse> answer = client.Ask(prompt);
    if (answer.ok()) {
      reached.ever = true;
      out.answer = *std::move(answer);
      return out;
    }
    const absl::Status& status = answer.status();
    const bool away = status.code() == absl::StatusCode::kUnavailable;
    const bool lost = away && !IsCatalogued(status);
    if (!lost) reached.ever = true;
    const bool again =
        away ? reached.ever.load() : status.code() == absl::StatusCode::kResourceExhausted;
    if (!again || attempt == kTries) {
      if (lost) reached.gone = true;
      return status;
    }
    if (reached.gone) return status;
    absl::SleepFor(wait);
    wait = std::min(wait * 2, absl::Seconds(5));
  }
}

// One result an item, in their order. Says on stderr how far it is, and the first few failures.
std::vector<absl::StatusOr<Asked>> AskAll(Client& client, const EvalData& data,
                                          const AskOptions& options, bool evidence) {
  std::vector<absl::StatusOr<Asked>> out(data.items.size(), absl::UnknownError("not asked"));
  std::atomic<size_t> next{0};
  Reached reached;
  std::mutex mu;
  size_t done = 0, failed = 0;
  const bool terminal = isatty(STDERR_FILENO) != 0;
  const auto work = [&] {
    for (size_t i; !reached.gone && (i = next++) < data.items.size();) {
      out[i] = AskOnce(client, data, data.items[i], options, evidence, reached);
      const std::lock_guard<std::mutex> lock(mu);
      ++done;
      if (!out[i].ok() && ++failed <= 5) {
        std::fprintf(stderr, "%s%s: %s\n", terminal ? "\r" : "", data.items[i].file.c_str(),
                     std::string(out[i].status().message()).c_str());
      }
      if (terminal) std::fprintf(stderr, "\r%zu of %zu prompts", done, data.items.size());
    }
  };
  std::vector<std::thread> threads;
  const size_t count = std::min<size_t>(options.parallel, data.items.size());
  for (size_t i = 0; i < count; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  if (terminal) std::fputs("\n", stderr);
  if (failed > 0) std::fprintf(stderr, "%zu of %zu prompts failed\n", failed, out.size());
  if (done < out.size()) {
    std::fprintf(stderr, "%zu were not asked, for there is no server any more\n",
                 out.size() - done);
  }
  return out;
}

Scored Judge(const EvalItem& item, const v1::GroundResponse& answer) {
  Scored out;
  out.truth = item.truth;
  out.first_box_only = item.first_box_only;
  out.confidence = answer.confidence();
  for (const v1::Object& object : answer.objects()) {
    const v1::Box& box = object.box();
    out.said.push_back({static_cast<double>(box.x1()), static_cast<double>(box.y1()),
                        static_cast<double>(box.x2()), static_cast<double>(box.y2())});
    out.confidences.push_back(object.confidence());
  }
  return out;
}

Json OrNull(std::optional<double> value) { return value ? Json(*value) : Json(nullptr); }

Json SummaryJson(const Summary& f) {
  return {{"count", f.count},
          {"exact", f.exact},
          {"acc50", OrNull(f.acc50())},
          {"mean_iou", OrNull(f.mean_iou())},
          {"several_exact", OrNull(f.several_exactness())},
          {"absent_accuracy", OrNull(f.absent_accuracy())},
          {"ece", Ece(Curve(f.claims))},
          {"ece_answers", Ece(Curve(f.answers))}};
}

Json CurveJson(absl::Span<const CurveBin> curve) {
  Json out = Json::array();
  for (size_t i = 0; i < curve.size(); ++i) {
    const auto n = static_cast<double>(curve.size());
    out.push_back({{"from", static_cast<double>(i) / n},
                   {"to", static_cast<double>(i + 1) / n},
                   {"count", curve[i].count},
                   {"confidence", curve[i].confidence},
                   {"right", curve[i].right}});
  }
  return out;
}

std::string Percent(std::optional<double> v) {
  return v ? absl::StrFormat("%.1f %%", 100 * *v) : "–";
}

std::string Row(const std::string& name, const Summary& f) {
  int64_t right = 0;
  for (const Claim& claim : f.claims) right += claim.right;
  const auto claims = static_cast<int64_t>(f.claims.size());
  const auto share =
      claims == 0 ? std::nullopt
                  : std::optional<double>(static_cast<double>(right) / static_cast<double>(claims));
  return absl::StrFormat(
      "| %s | %d | %s | %s | %s | %s | %d | %s | %.3f |\n", name, f.count, Percent(f.acc50()),
      f.mean_iou() ? absl::StrFormat("%.3f", *f.mean_iou()) : "–", Percent(f.several_exactness()),
      Percent(f.absent_accuracy()), claims, Percent(share), Ece(Curve(f.claims)));
}

// Markdown, so that it can be read on a terminal and pasted into documents.
void PrintSummary(const Summary& all, const std::map<std::string, Summary>& groups) {
  std::fputs(
      "| prompts | count | Acc@0.5 | mean IoU | several exact | absent right | boxes and "
      "absences | of them right | ECE |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
      stdout);
  if (groups.size() > 1) {
    for (const auto& [name, summary] : groups) std::fputs(Row(name, summary).c_str(), stdout);
  }
  std::fputs(Row("all", all).c_str(), stdout);
  std::fputs(
      "\n| confidence | boxes and absences | mean confidence | right |\n|---|---:|---:|---:|\n",
      stdout);
  const std::vector<CurveBin> curve = Curve(all.claims);
  for (size_t i = 0; i < curve.size(); ++i) {
    if (curve[i].count == 0) continue;
    std::printf("| %.1f – %.1f | %lld | %.3f | %.3f |\n", static_cast<double>(i) / kCurveBins,
                static_cast<double>(i + 1) / kCurveBins, static_cast<long long>(curve[i].count),
                curve[i].confidence, curve[i].right);
  }
}

absl::Status Plot(absl::Span<const Claim> claims, const std::string& path) {
  const std::vector<CurveBin> curve = Curve(claims);
  std::vector<plot::ReliabilityBin> bins;
  for (const CurveBin& bin : curve) bins.push_back({bin.count, bin.confidence, bin.right});
  const std::string title =
      absl::StrFormat("%d boxes and absences, ECE %.3f", claims.size(), Ece(curve));
  CHORD_ASSIGN_OR_RETURN(const std::vector<uint8_t> png,
                         image::EncodePng(plot::DrawReliability(bins, title)));
  return WriteWhole(path, absl::string_view(reinterpret_cast<const char*>(png.data()), png.size()));
}

absl::StatusOr<int> Eval(const std::vector<std::string>& raw) {
  CHORD_ASSIGN_OR_RETURN(const Args args, ParseArgs(raw, AskFlags({{"http"}, {"plot"}})));
  if (args.Has("help")) {
    std::printf("%s%s%s", kEvalHelp, kAskHelp, kEvalMore);
    return 0;
  }
  CHORD_ASSIGN_OR_RETURN(const AskOptions options, ReadAskOptions(args));
  if (args.Has("http") && args.Has("server")) {
    return errors::ConfigInvalid("Give --server or --http, not both.");
  }
  std::unique_ptr<Client> client;
  if (args.Has("http")) {
    CHORD_ASSIGN_OR_RETURN(client, MakeHttpClient(args.Get("http")));
  } else {
    CHORD_ASSIGN_OR_RETURN(const std::string server, GrpcAddress(args));
    client = MakeGrpcClient(server);
  }
  if (args.Has("plot")) CHORD_RETURN_IF_ERROR(CheckWritable(args.Get("plot")));
  CHORD_ASSIGN_OR_RETURN(const EvalData data, Load(args.positional[0], options));

  const auto answers = AskAll(*client, data, options, false);
  Summary all;
  std::map<std::string, Summary> groups;
  int64_t failed = 0, calibrated = 0;
  std::string model;
  for (size_t i = 0; i < answers.size(); ++i) {
    if (!answers[i].ok()) {
      ++failed;
      continue;
    }
    const Scored judged = Judge(data.items[i], answers[i]->answer);
    all.Add(judged);
    groups[data.items[i].group].Add(judged);
    calibrated += answers[i]->answer.calibrated();
    model = answers[i]->answer.model();
  }
  const bool is_calibrated = all.count > 0 && calibrated == all.count;
  if (args.Has("json")) {
    Json out = SummaryJson(all);
    out["failed"] = failed;
    out["model"] = model;
    out["calibrated"] = is_calibrated;
    out["curve"] = CurveJson(Curve(all.claims));
    out["groups"] = Json::object();
    for (const auto& [name, summary] : groups) out["groups"][name] = SummaryJson(summary);
    std::puts(out.dump(1, ' ', false, Json::error_handler_t::replace).c_str());
  } else if (all.count > 0) {
    PrintSummary(all, groups);
    std::printf("\n%s, %s confidences; ECE of answers as wholes %.3f\n", model.c_str(),
                is_calibrated ? "calibrated" : "raw", Ece(Curve(all.answers)));
  }
  if (args.Has("plot")) {
    if (const absl::Status status = Plot(all.claims, args.Get("plot")); !status.ok()) {
      std::fprintf(stderr, "chord eval: %s\n", std::string(status.message()).c_str());
      return 1;
    }
  }
  return failed == 0 ? 0 : 1;
}

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
  const Scored judged = Judge(item, answer);
  FitAnswer out;
  out.image = item.file;
  out.right = IsExact(judged);
  out.boxes_right = RightBoxes(judged);
  out.ends = evidence.ends();
  out.cut = evidence.cut();
  out.raw_confidence = evidence.raw_confidence();
  out.absent.assign(evidence.absent().begin(), evidence.absent().end());
  bool fine = static_cast<size_t>(evidence.boxes_size()) == judged.said.size() &&
              (!judged.said.empty() || out.absent.size() == grounding::kAbsentFeatures);
  for (const v1::BoxEvidence& box : evidence.boxes()) {
    fine = fine && box.features_size() == grounding::kBoxFeatures;
    out.boxes.emplace_back(box.features().begin(), box.features().end());
    out.raw_boxes.push_back(box.raw_confidence());
  }
  if (!fine) return absl::FailedPreconditionError("the server's evidence is not of this version");
  return out;
}

absl::StatusOr<int> Calibrate(const std::vector<std::string>& raw) {
  CHORD_ASSIGN_OR_RETURN(const Args args, ParseArgs(raw, AskFlags({{"model"}, {"out"}})));
  if (args.Has("help")) {
    std::printf("%s%s%s", kCalibrateHelp, kAskHelp, kCalibrateMore);
    return 0;
  }
  CHORD_ASSIGN_OR_RETURN(const AskOptions options, ReadAskOptions(args));
  const std::string model = args.Get("model", DefaultModelDir());
  if (model.empty()) {
    return errors::ConfigInvalid("chord-nano is not beside this installation; give --model DIR.");
  }
  CHORD_ASSIGN_OR_RETURN(const std::string fingerprint, model::Fingerprint(model));
  const std::string out_path =
      args.Get("out", (fs::path(model) / grounding::kConfidenceFile).string());
  CHORD_ASSIGN_OR_RETURN(const std::string server, GrpcAddress(args));
  CHORD_RETURN_IF_ERROR(CheckWritable(out_path));
  CHORD_ASSIGN_OR_RETURN(const EvalData data, Load(args.positional[0], options));
  const std::unique_ptr<Client> client = MakeGrpcClient(server);

  const auto answers = AskAll(*client, data, options, true);
  std::vector<FitAnswer> fit;
  Sha256 hash;
  hash.UpdateField(data.bytes);
  int64_t unusable = 0;
  for (size_t i = 0; i < answers.size(); ++i) {
    // A map of whatever happened to be answered would look like one of the whole set.
    if (!answers[i].ok()) {
      std::fputs("chord calibrate: not every prompt was answered; nothing is written.\n", stderr);
      return 1;
    }
    hash.UpdateField(answers[i]->image_sha256);
    absl::StatusOr<FitAnswer> one = ToFitAnswer(data.items[i], answers[i]->answer, fingerprint);
    if (!one.ok()) {
      if (answers[i]->answer.has_evidence()) {
        std::fprintf(stderr, "chord calibrate: %s; nothing is written.\n",
                     std::string(one.status().message()).c_str());
        return 1;
      }
      ++unusable;
      continue;
    }
    fit.push_back(*std::move(one));
  }
  grounding::ConfidenceMap map = FitConfidence(fit);
  if (map.fitted_on.boxes + map.fitted_on.absences < kLeastClaims) {
    std::fprintf(stderr,
                 "chord calibrate: %lld boxes and absences with evidence are too few to fit on.\n",
                 static_cast<long long>(map.fitted_on.boxes + map.fitted_on.absences));
    return 1;
  }
  const FitQuality quality = CrossValidate(fit);
  map.model_fingerprint = fingerprint;
  map.fitted_on.data = data.name;
  map.fitted_on.sha256 = hash.HexDigest();
  map.fitted_on.ece_raw = quality.ece_raw;
  map.fitted_on.ece_cross_validated = quality.ece;
  const std::string text = grounding::ToJson(map);
  // What is written must be what the gateway will take.
  CHORD_RETURN_IF_ERROR(grounding::ParseConfidenceMap(text).status());
  if (const absl::Status status = WriteWhole(out_path, text); !status.ok()) {
    std::fprintf(stderr, "chord calibrate: %s\n", std::string(status.message()).c_str());
    return 1;
  }

  const grounding::FittedOn& on = map.fitted_on;
  if (args.Has("json")) {
    const Json out = {{"out", out_path},
                      {"questions", on.prompts},
                      {"unusable", unusable},
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
    std::puts(out.dump(1, ' ', false, Json::error_handler_t::replace).c_str());
    return 0;
  }
  std::printf(
      "| fitted on | count | right | ECE raw | ECE fitted (5-fold) |\n|---|---:|---:|---:|---:|\n");
  std::printf("| boxes | %lld | %lld | | |\n", static_cast<long long>(on.boxes),
              static_cast<long long>(on.boxes_right));
  std::printf("| absences | %lld | %lld | | |\n", static_cast<long long>(on.absences),
              static_cast<long long>(on.absences_right));
  std::printf("| boxes and absences | %lld | %lld | %.3f | %.3f |\n",
              static_cast<long long>(on.boxes + on.absences),
              static_cast<long long>(on.boxes_right + on.absences_right), quality.ece_raw,
              quality.ece);
  std::printf("| answers as wholes | %lld | %lld | %.3f | %.3f |\n",
              static_cast<long long>(on.answers + on.absences),
              static_cast<long long>(on.answers_right + on.absences_right), quality.ece_answers_raw,
              quality.ece_answers);
  if (unusable > 0) {
    std::printf("\n%lld answers had no probabilities to fit on.\n",
                static_cast<long long>(unusable));
  }
  std::printf("\nWritten to %s. The gateway reads it when it starts.\n", out_path.c_str());
  return 0;
}

int Finish(const char* command, const absl::StatusOr<int>& code) {
  if (code.ok()) return *code;
  std::fprintf(stderr, "%s: %s\n", command, std::string(code.status().message()).c_str());
  return 2;
}

}  // namespace

int RunEval(const std::vector<std::string>& args) { return Finish("chord eval", Eval(args)); }
int RunCalibrate(const std::vector<std::string>& args) {
  return Finish("chord calibrate", Calibrate(args));
}

}  // namespace chord::cli
