#include "common/api/answer_json.h"

#include <nlohmann/json.hpp>

namespace chord::api {
namespace {

using Json = nlohmann::ordered_json;

Json BoxJson(const v1::Box& box) { return Json::array({box.x1(), box.y1(), box.x2(), box.y2()}); }

const char* CacheName(v1::Cache cache) {
  switch (cache) {
    case v1::CACHE_EMBEDDINGS:
      return "embeddings";
    case v1::CACHE_KV:
      return "kv";
    default:
      return "none";
  }
}

}  // namespace

Json AnswerObject(const v1::GroundResponse& answer) {
  Json out;
  out["text"] = answer.text();
  out["boxes"] = Json::array();
  for (const auto& box : answer.boxes()) out["boxes"].push_back(BoxJson(box));
  out["objects"] = Json::array();
  for (const auto& object : answer.objects()) {
    out["objects"].push_back({{"label", object.label()},
                              {"box", BoxJson(object.box())},
                              {"confidence", object.confidence()},
                              {"needs_review", object.needs_review()}});
  }
  out["points"] = Json::array();
  for (const auto& point : answer.points()) {
    out["points"].push_back({{"label", point.label()},
                             {"point", {point.x(), point.y()}},
                             {"confidence", point.confidence()}});
  }
  if (answer.labels_size() > 0) {
    out["labels"] = Json::array();
    for (const auto& match : answer.labels()) {
      Json& to = out["labels"].emplace_back();
      to["label"] = match.label();
      to["objects"] = match.objects();
      if (match.has_confidence()) to["confidence"] = match.confidence();
    }
  }
  out["image_size"] = {answer.image_size().width(), answer.image_size().height()};
  if (answer.has_confidence()) out["confidence"] = answer.confidence();
  out["calibrated"] = answer.calibrated();
  if (!answer.advice().empty()) out["advice"] = answer.advice();
  const auto& frame = answer.frame();
  Json tiles = Json::array();
  for (const auto& tile : frame.tiles()) {
    tiles.push_back({{"box", BoxJson(tile.box())},
                     {"resized_size", {tile.resized_width(), tile.resized_height()}}});
  }
  out["frame"] = {{"resized_size", {frame.resized_width(), frame.resized_height()}},
                  {"scale", {frame.scale_x(), frame.scale_y()}},
                  {"orientation", frame.orientation()},
                  {"tiles", std::move(tiles)}};
  const auto& usage = answer.usage();
  out["usage"] = {{"prompt_tokens", usage.prompt_tokens()},
                  {"completion_tokens", usage.completion_tokens()},
                  {"decode_steps", usage.decode_steps()},
                  {"image_tokens", usage.image_tokens()},
                  {"cache", CacheName(usage.cache())}};
  const auto& timing = answer.timing();
  out["timing"] = {{"queue_ms", timing.queue_ms()},     {"vision_ms", timing.vision_ms()},
                   {"prefill_ms", timing.prefill_ms()}, {"ttft_ms", timing.ttft_ms()},
                   {"decode_ms", timing.decode_ms()},   {"total_ms", timing.total_ms()}};
  out["finish_reason"] = answer.finish_reason() == v1::FINISH_REASON_LENGTH ? "length" : "stop";
  out["request_id"] = answer.request_id();
  out["model"] = answer.model();
  if (!answer.image_id().empty()) out["image_id"] = answer.image_id();
  return out;
}

std::string AnswerJson(const v1::GroundResponse& answer, int indent) {
  return AnswerObject(answer).dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace chord::api
