#include "services/cli/eval/eval_report.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/image/image.h"
#include "services/cli/files.h"
#include "services/cli/plot/reliability.h"

namespace chord::cli {
namespace {

using Json = nlohmann::ordered_json;

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

}  // namespace

std::string EvalJson(const EvalReport& report) {
  Json out = SummaryJson(report.all);
  out["failed"] = report.failed;
  out["model"] = report.model;
  out["calibrated"] = report.calibrated;
  out["curve"] = CurveJson(Curve(report.all.claims));
  out["groups"] = Json::object();
  for (const auto& [name, summary] : report.groups) out["groups"][name] = SummaryJson(summary);
  return out.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string EvalText(const EvalReport& report) {
  std::string out =
      "| prompts | count | Acc@0.5 | mean IoU | several exact | absent right | boxes and "
      "absences | of them right | ECE |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n";
  if (report.groups.size() > 1) {
    for (const auto& [name, summary] : report.groups) out += Row(name, summary);
  }
  out += Row("all", report.all);
  out += "\n| confidence | boxes and absences | mean confidence | right |\n|---|---:|---:|---:|\n";
  const std::vector<CurveBin> curve = Curve(report.all.claims);
  for (size_t i = 0; i < curve.size(); ++i) {
    if (curve[i].count == 0) continue;
    absl::StrAppendFormat(&out, "| %.1f – %.1f | %d | %.3f | %.3f |\n",
                          static_cast<double>(i) / kCurveBins,
                          static_cast<double>(i + 1) / kCurveBins, curve[i].count,
                          curve[i].confidence, curve[i].right);
  }
  absl::StrAppendFormat(&out, "\n%s, %s confidences; ECE of answers as wholes %.3f\n", report.model,
                        report.calibrated ? "calibrated" : "raw", Ece(Curve(report.all.answers)));
  return out;
}

absl::Status WriteReliabilityPlot(absl::Span<const Claim> claims, const std::string& path) {
  const std::vector<CurveBin> curve = Curve(claims);
  std::vector<plot::ReliabilityBin> bins;
  for (const CurveBin& bin : curve) bins.push_back({bin.count, bin.confidence, bin.right});
  const std::string title =
      absl::StrFormat("%d boxes and absences, ECE %.3f", claims.size(), Ece(curve));
  CHORD_ASSIGN_OR_RETURN(const std::vector<uint8_t> png,
                         image::EncodePng(plot::DrawReliability(bins, title)));
  return WriteWhole(path, absl::string_view(reinterpret_cast<const char*>(png.data()), png.size()));
}

}  // namespace chord::cli
