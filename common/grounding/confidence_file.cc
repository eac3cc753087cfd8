// The file of a fitted map: strict in what it reads, repeatable in what it writes.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/errors.h"
#include "common/base/files.h"
#include "common/base/status_macros.h"
#include "common/grounding/confidence.h"
#include "common/json/strict_json.h"

namespace chord::grounding {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr int kFileVersion = 1;
constexpr double kMaxNumber = 1e6;
constexpr const char* kBoxNames[] = {"coordinates", "least", "follows", "label", "side"};
constexpr const char* kAbsentNames[] = {"empty", "words"};
constexpr const char* kAnswerNames[] = {"weakest", "all", "ends", "cut"};
static_assert(std::size(kBoxNames) == kBoxFeatures);
static_assert(std::size(kAbsentNames) == kAbsentFeatures);
static_assert(std::size(kAnswerNames) == kAnswerFeatures);

absl::Status Bad(absl::string_view what) {
  return errors::CheckpointInvalid(absl::StrCat(kConfidenceFile, ": ", what, "."));
}

// Six significant digits: what is fitted on some thousand answers knows no more.
double Short(double v) {
  double out = 0;
  return absl::SimpleAtod(absl::StrFormat("%.6g", v), &out) ? out : v;
}

OrderedJson MapJson(const MonotoneMap& map, absl::Span<const char* const> names) {
  OrderedJson weights = OrderedJson::object();
  for (size_t i = 0; i < names.size(); ++i) weights[names[i]] = Short(map.weights.at(i));
  OrderedJson knots = OrderedJson::array();
  for (const Knot& knot : map.knots) {
    knots.push_back({Short(knot.score), Short(knot.probability), knot.count});
  }
  return {{"bias", Short(map.bias)}, {"weights", std::move(weights)}, {"knots", std::move(knots)}};
}

// Takes exactly the keys of an object; the rest is an error.
absl::Status OnlyKeys(const Json& json, absl::string_view where,
                      std::initializer_list<absl::string_view> keys) {
  if (!json.is_object()) return Bad(absl::StrCat(where, " must be an object"));
  for (const absl::string_view key : keys) {
    if (!json.contains(std::string(key))) return Bad(absl::StrCat(where, " lacks \"", key, "\""));
  }
  if (json.size() != keys.size()) return Bad(absl::StrCat(where, " has a key that is not known"));
  return absl::OkStatus();
}

absl::StatusOr<double> Number(const Json& json, absl::string_view what, double low = -kMaxNumber,
                              double high = kMaxNumber) {
  if (!json.is_number()) return Bad(absl::StrCat(what, " must be a number"));
  const double value = json.get<double>();
  if (!(value >= low && value <= high)) return Bad(absl::StrCat(what, " is out of range"));
  return value;
}

absl::StatusOr<int64_t> Count(const Json& json, absl::string_view what) {
  if (!json.is_number_integer()) return Bad(absl::StrCat(what, " must be an integer"));
  CHORD_ASSIGN_OR_RETURN(const double value, Number(json, what, 0, 1e12));
  return static_cast<int64_t>(value);
}

absl::StatusOr<std::string> Hex(const Json& json, absl::string_view what) {
  const std::string text = json.is_string() ? json.get<std::string>() : "";
  const bool fine = text.size() == 64 && std::all_of(text.begin(), text.end(), [](unsigned char c) {
                      return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
                    });
  if (!fine) return Bad(absl::StrCat(what, " must be 64 lower-case hex digits"));
  return text;
}

absl::StatusOr<MonotoneMap> ParseMap(const Json& json, const std::string& name,
                                     absl::Span<const char* const> features) {
  CHORD_RETURN_IF_ERROR(OnlyKeys(json, name, {"bias", "weights", "knots"}));
  MonotoneMap out;
  CHORD_ASSIGN_OR_RETURN(out.bias, Number(json["bias"], name + ".bias"));
  const Json& weights = json["weights"];
  if (!weights.is_object() || weights.size() != features.size()) {
    return Bad(absl::StrCat(name, ".weights must be an object of ", features.size(), " features"));
  }
  for (const char* feature : features) {
    const auto weight = weights.find(feature);
    if (weight == weights.end()) return Bad(absl::StrCat(name, ".weights lacks ", feature));
    CHORD_ASSIGN_OR_RETURN(const double value, Number(*weight, name + ".weights"));
    out.weights.push_back(value);
  }
  const Json& knots = json["knots"];
  if (!knots.is_array() || knots.empty() || knots.size() > kMaxKnots) {
    return Bad(absl::StrCat(name, ".knots must be a list of 1 to ", kMaxKnots));
  }
  for (const Json& item : knots) {
    if (!item.is_array() || item.size() != 3) {
      return Bad(absl::StrCat(name, ".knots: each is [score, probability, count]"));
    }
    Knot knot;
    CHORD_ASSIGN_OR_RETURN(knot.score, Number(item[0], name + ".knots"));
    CHORD_ASSIGN_OR_RETURN(knot.probability, Number(item[1], name + ".knots", 0, 1));
    CHORD_ASSIGN_OR_RETURN(knot.count, Count(item[2], name + ".knots"));
    if (!out.knots.empty() && !(knot.score > out.knots.back().score &&
                                knot.probability >= out.knots.back().probability)) {
      return Bad(absl::StrCat(name, ".knots must rise"));
    }
    out.knots.push_back(knot);
  }
  return out;
}

absl::StatusOr<FittedOn> ParseFittedOn(const Json& json) {
  CHORD_RETURN_IF_ERROR(
      OnlyKeys(json, "fitted_on",
               {"data", "sha256", "questions", "boxes", "boxes_right", "absences", "absences_right",
                "answers", "answers_right", "ece_raw", "ece_cross_validated"}));
  FittedOn out;
  if (!json["data"].is_string()) return Bad("fitted_on.data must be text");
  out.data = json["data"].get<std::string>();
  CHORD_ASSIGN_OR_RETURN(out.sha256, Hex(json["sha256"], "fitted_on.sha256"));
  const std::pair<const char*, int64_t*> counts[] = {{"questions", &out.prompts},
                                                     {"boxes", &out.boxes},
                                                     {"boxes_right", &out.boxes_right},
                                                     {"absences", &out.absences},
                                                     {"absences_right", &out.absences_right},
                                                     {"answers", &out.answers},
                                                     {"answers_right", &out.answers_right}};
  for (const auto& [name, to] : counts) {
    CHORD_ASSIGN_OR_RETURN(*to, Count(json[name], absl::StrCat("fitted_on.", name)));
  }
  CHORD_ASSIGN_OR_RETURN(out.ece_raw, Number(json["ece_raw"], "fitted_on.ece_raw", 0, 1));
  CHORD_ASSIGN_OR_RETURN(out.ece_cross_validated, Number(json["ece_cross_validated"],
                                                         "fitted_on.ece_cross_validated", 0, 1));
  return out;
}

}  // namespace

std::string ToJson(const ConfidenceMap& map) {
  const FittedOn& on = map.fitted_on;
  OrderedJson out;
  out["version"] = kFileVersion;
  out["evidence_version"] = kEvidenceVersion;
  out["model_fingerprint"] = map.model_fingerprint;
  out["box"] = MapJson(map.box, kBoxNames);
  out["absent"] = MapJson(map.absent, kAbsentNames);
  out["answer"] = MapJson(map.answer, kAnswerNames);
  out["fitted_on"] = {{"data", on.data},
                      {"sha256", on.sha256},
                      {"questions", on.prompts},
                      {"boxes", on.boxes},
                      {"boxes_right", on.boxes_right},
                      {"absences", on.absences},
                      {"absences_right", on.absences_right},
                      {"answers", on.answers},
                      {"answers_right", on.answers_right},
                      {"ece_raw", Short(on.ece_raw)},
                      {"ece_cross_validated", Short(on.ece_cross_validated)}};
  return out.dump(1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

absl::StatusOr<ConfidenceMap> ParseConfidenceMap(absl::string_view text) {
  const absl::StatusOr<Json> parsed = ParseStrictJson(text);
  if (!parsed.ok()) return Bad(absl::StrCat("not valid: ", parsed.status().message()));
  const Json& json = *parsed;
  CHORD_RETURN_IF_ERROR(OnlyKeys(json, "the file",
                                 {"version", "evidence_version", "model_fingerprint", "box",
                                  "absent", "answer", "fitted_on"}));
  if (json["version"] != kFileVersion || json["evidence_version"] != kEvidenceVersion) {
    return Bad("made by another version of Chord; fit it anew with chord calibrate");
  }
  ConfidenceMap out;
  CHORD_ASSIGN_OR_RETURN(out.model_fingerprint,
                         Hex(json["model_fingerprint"], "model_fingerprint"));
  CHORD_ASSIGN_OR_RETURN(out.box, ParseMap(json["box"], "box", kBoxNames));
  CHORD_ASSIGN_OR_RETURN(out.absent, ParseMap(json["absent"], "absent", kAbsentNames));
  CHORD_ASSIGN_OR_RETURN(out.answer, ParseMap(json["answer"], "answer", kAnswerNames));
  CHORD_ASSIGN_OR_RETURN(out.fitted_on, ParseFittedOn(json["fitted_on"]));
  return out;
}

absl::StatusOr<std::optional<ConfidenceMap>> LoadConfidenceMap(const std::string& model_dir,
                                                               absl::string_view fingerprint) {
  CHORD_ASSIGN_OR_RETURN(const std::optional<std::string> text,
                         ReadOptionalFile(model_dir, kConfidenceFile, kMaxConfidenceFileBytes));
  if (!text) return std::optional<ConfidenceMap>();
  CHORD_ASSIGN_OR_RETURN(ConfidenceMap map, ParseConfidenceMap(*text));
  if (map.model_fingerprint != fingerprint) {
    return Bad("fitted for another model; fit it anew with chord calibrate");
  }
  return std::optional<ConfidenceMap>(std::move(map));
}

}  // namespace chord::grounding
