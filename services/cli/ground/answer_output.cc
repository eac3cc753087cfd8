#include "services/cli/ground/answer_output.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/image/image.h"
#include "services/cli/files.h"
#include "services/cli/plot/annotate.h"

namespace chord::cli {

using Json = nlohmann::ordered_json;

bool IsTruncated(const v1::GroundResponse& answer) {
  return answer.finish_reason() == v1::FINISH_REASON_LENGTH;
}

// The labels of the request that have no objects, a line each.
void AppendAbsentLabels(const v1::GroundResponse& answer, std::string& out) {
  for (const v1::LabelMatch& match : answer.labels()) {
    if (match.objects_size() > 0) continue;
    if (match.has_confidence()) {
      absl::StrAppendFormat(&out, "%s: not there (confidence %.2f)\n", match.label(),
                            match.confidence());
    } else {
      absl::StrAppend(&out, match.label(), ": none found\n");
    }
  }
}

std::string AnswerText(const v1::GroundResponse& answer) {
  std::string out;
  for (const auto& object : answer.objects()) {
    absl::StrAppendFormat(&out, "%d %d %d %d  %.2f  %s%s\n", object.box().x1(), object.box().y1(),
                          object.box().x2(), object.box().y2(), object.confidence(), object.label(),
                          object.needs_review() ? "  (review)" : "");
  }
  AppendAbsentLabels(answer, out);
  if (IsTruncated(answer)) {
    absl::StrAppend(&out, "The answer was cut at max_new_tokens; more objects may be there.\n");
  } else if (answer.objects().empty() && answer.labels().empty()) {
    absl::StrAppendFormat(&out, "not there (confidence %.2f)\n", answer.confidence());
  }
  if (!answer.advice().empty()) absl::StrAppend(&out, answer.advice(), "\n");
  return out;
}

std::string ErrorJson(const absl::Status& status, int indent) {
  const Json json = {
      {"error", {{"code", ErrorReason(status)}, {"detail", std::string(status.message())}}}};
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::string WithFileName(const std::string& file, const std::string& object) {
  Json line = {{"file", file}};
  line.update(Json::parse(object));
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::Status WriteAnnotated(absl::string_view bytes, const v1::GroundResponse& answer,
                            const std::string& path) {
  image::DecodeOptions decode;
  decode.limits.max_pixels = limits::kCeilingImagePixels;
  decode.limits.max_bytes = limits::kCeilingImageBytes;
  CHORD_ASSIGN_OR_RETURN(const image::RgbImage image, image::Decode(bytes, decode));
  std::vector<plot::AnnotatedBox> boxes;
  for (const auto& object : answer.objects()) {
    boxes.push_back(
        {.box = {object.box().x1(), object.box().y1(), object.box().x2(), object.box().y2()},
         .label = absl::StrFormat("%s %.2f", object.label(), object.confidence()),
         .needs_review = object.needs_review()});
  }
  std::string note;
  if (IsTruncated(answer)) {
    note = "answer cut at max_new_tokens";
  } else if (boxes.empty()) {
    note = absl::StrFormat("not there %.2f", answer.confidence());
  }
  const image::RgbImage drawn = plot::Annotate(image, boxes, note);
  const std::string name = absl::AsciiStrToLower(path);
  const bool jpeg = absl::EndsWith(name, ".jpg") || absl::EndsWith(name, ".jpeg");
  CHORD_ASSIGN_OR_RETURN(const std::vector<uint8_t> file,
                         jpeg ? image::EncodeJpeg(drawn) : image::EncodePng(drawn));
  return WriteWhole(path, {reinterpret_cast<const char*>(file.data()), file.size()});
}

}  // namespace chord::cli
