#include "services/gateway/grpc/proto_codec.h"

#include "common/base/errors.h"
#include "services/gateway/images/session_store.h"

namespace chord::gateway {
namespace {

void SetBox(const image::Box& box, v1::Box& out) {
  out.set_x1(box.x1);
  out.set_y1(box.y1);
  out.set_x2(box.x2);
  out.set_y2(box.y2);
}

v1::Evidence ToProto(const GroundEvidence& evidence) {
  const grounding::Evidence& from = evidence.signals;
  v1::Evidence out;
  out.set_raw_confidence(evidence.raw_confidence);
  out.set_model_fingerprint(evidence.model_fingerprint);
  out.set_version(grounding::kEvidenceVersion);
  for (size_t i = 0; i < from.boxes.size(); ++i) {
    v1::BoxEvidence& box = *out.add_boxes();
    box.mutable_features()->Add(from.boxes[i].begin(), from.boxes[i].end());
    box.set_raw_confidence(from.raw_boxes[i]);
  }
  if (from.boxes.empty()) out.mutable_absent()->Add(from.absent.begin(), from.absent.end());
  out.set_ends(from.ends);
  out.set_cut(from.cut);
  return out;
}

v1::Cache ToProto(CacheTier tier) {
  switch (tier) {
    case CacheTier::kNone:
      return v1::CACHE_NONE;
    case CacheTier::kEmbeddings:
      return v1::CACHE_EMBEDDINGS;
    case CacheTier::kKv:
      return v1::CACHE_KV;
  }
  return v1::CACHE_NONE;
}

}  // namespace

v1::Object ToProto(const GroundObject& object) {
  v1::Object out;
  out.set_label(object.label);
  SetBox(object.box, *out.mutable_box());
  out.set_confidence(object.confidence);
  out.set_needs_review(object.needs_review);
  return out;
}

v1::GroundResponse ToProto(const GroundResult& result) {
  v1::GroundResponse out;
  out.set_text(result.text);
  for (const GroundObject& object : result.objects) {
    SetBox(object.box, *out.add_boxes());
    *out.add_objects() = ToProto(object);
  }
  for (const GroundPoint& point : result.points) {
    v1::Point& to = *out.add_points();
    to.set_label(point.label);
    to.set_x(point.at.x);
    to.set_y(point.at.y);
    to.set_confidence(point.confidence);
  }
  for (const LabelMatch& match : result.labels) {
    v1::LabelMatch& to = *out.add_labels();
    to.set_label(match.label);
    to.mutable_objects()->Assign(match.objects.begin(), match.objects.end());
    if (match.confidence) to.set_confidence(*match.confidence);
  }
  const image::FramePlan& plan = result.frame;
  out.mutable_image_size()->set_width(plan.upright.width);
  out.mutable_image_size()->set_height(plan.upright.height);
  if (result.confidence) out.set_confidence(*result.confidence);
  out.set_calibrated(result.calibrated);
  out.set_advice(result.advice);
  v1::Frame& frame = *out.mutable_frame();
  frame.set_resized_width(plan.resized.width);
  frame.set_resized_height(plan.resized.height);
  frame.set_scale_x(static_cast<double>(plan.upright.width) / plan.resized.width);
  frame.set_scale_y(static_cast<double>(plan.upright.height) / plan.resized.height);
  frame.set_orientation(plan.orientation);
  v1::Usage& usage = *out.mutable_usage();
  usage.set_prompt_tokens(result.usage.prompt_tokens);
  usage.set_completion_tokens(result.usage.completion_tokens);
  usage.set_decode_steps(result.usage.decode_steps);
  usage.set_image_tokens(result.usage.image_tokens);
  usage.set_cache(ToProto(result.usage.image));
  v1::Timing& timing = *out.mutable_timing();
  timing.set_queue_ms(absl::ToDoubleMilliseconds(result.timing.queue));
  timing.set_vision_ms(absl::ToDoubleMilliseconds(result.timing.vision));
  timing.set_prefill_ms(absl::ToDoubleMilliseconds(result.timing.prefill));
  timing.set_ttft_ms(absl::ToDoubleMilliseconds(result.timing.first_token));
  timing.set_decode_ms(absl::ToDoubleMilliseconds(result.timing.decode));
  timing.set_total_ms(absl::ToDoubleMilliseconds(result.timing.total));
  out.set_request_id(result.request_id);
  out.set_model(result.model);
  out.set_image_id(result.image_id);
  out.set_finish_reason(result.truncated ? v1::FINISH_REASON_LENGTH : v1::FINISH_REASON_STOP);
  if (result.evidence) *out.mutable_evidence() = ToProto(*result.evidence);
  return out;
}

absl::Status FromProto(const v1::GroundRequest& request, GroundInput& input) {
  switch (request.source_case()) {
    case v1::GroundRequest::kImage:
      input.image = request.image();
      break;
    case v1::GroundRequest::kImageId:
      if (request.image_id().empty()) {
        return errors::ParameterInvalid("image_id", "the image_id of an upload or an answer");
      }
      input.image_id = request.image_id();
      break;
    default:
      return errors::ImageMissing();
  }
  if (!request.session_id().empty() && !IsSessionId(request.session_id())) {
    return errors::ParameterInvalid("session_id", "1 to 64 characters of A-Z, a-z, 0-9, _ and -");
  }
  input.session_id = request.session_id();
  if (!v1::Grammar_IsValid(request.grammar())) {
    return errors::ParameterInvalid("grammar", "GRAMMAR_AUTO or GRAMMAR_OFF");
  }
  input.grammar = request.grammar() != v1::GRAMMAR_OFF;
  if (request.prompt().empty() && request.labels().empty()) return errors::PromptMissing();
  input.prompt = request.prompt();
  input.labels.assign(request.labels().begin(), request.labels().end());
  input.want_evidence = request.want_evidence();
  // The protocol says that 0 is the default, as absent is.
  if (request.max_new_tokens() != 0) input.max_new_tokens = request.max_new_tokens();
  return absl::OkStatus();
}

}  // namespace chord::gateway
