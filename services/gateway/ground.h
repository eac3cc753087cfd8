// A request and its answer as plain data: what the gRPC and HTTP endpoints share.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/cache_tier.h"
#include "common/base/cancel.h"
#include "common/grounding/confidence.h"
#include "common/grounding/points.h"
#include "common/image/frame_plan.h"
#include "common/obs/trace.h"
#include "services/gateway/chat.h"

namespace chord::gateway {

struct GroundObject {
  std::string label;
  image::Box box;  // upright original px
  double confidence = 0;
  bool needs_review = false;
};

struct GroundPoint {
  std::string label;
  grounding::PixelPoint at;  // upright original px
  double confidence = 0;     // raw: of its coordinate tokens
};

// The objects of one of the labels that were asked for.
struct LabelMatch {
  std::string label;              // as it was asked for
  std::vector<int> objects = {};  // indices into the answer's objects
  // With objects: of them. Without: that there are none; nullopt when that is not known.
  std::optional<double> confidence = {};
};

struct GroundInput {
  std::string request_id;
  obs::TraceContext trace;     // of the request's span; may be empty
  std::string client;          // for limits: an address; empty: no client's
  absl::string_view image;     // the file; must outlive the call. Empty when `image_id` is given
  std::string image_id;        // of a kept image
  std::string session_id;      // of a conversation about the image; empty: none
  bool grammar = true;         // decode under the box grammar
  bool want_evidence = false;  // what confidences are computed from
  std::string prompt;
  std::vector<std::string> labels;     // instead of a prompt: classes to look for
  std::vector<ChatTurn> conversation;  // instead of a prompt: sent to the model as it is
  DecodeOptions decode;
  // Absent: the setting's default. Of each label where a model is asked for one at a time.
  std::optional<int> max_new_tokens;
  absl::Time received_at;
  absl::Time deadline = absl::InfiniteFuture();  // the client's own
  CancelToken cancel;                            // fires when the client closes its call
  // Text as it is generated; called on a thread of gRPC, never after the call has returned.
  std::function<void(absl::string_view)> on_delta;
  // Each object once, in order, as it is complete: without a confidence (0) while text still comes,
  // the rest at the end. Called like on_delta, or on the caller's thread before the call returns.
  std::function<void(const GroundObject&)> on_object;
};

struct GroundUsage {
  int prompt_tokens = 0;
  int completion_tokens = 0;
  int decode_steps = 0;
  int image_tokens = 0;
  int cached_tokens = 0;  // of the prompt's, those whose KV was found
  CacheTier image = CacheTier::kNone;
};

struct GroundTiming {
  absl::Duration queue;
  absl::Duration vision;
  absl::Duration prefill;
  absl::Duration first_token;
  absl::Duration decode;
  absl::Duration total;
};

// What an answer's confidences are computed from.
struct GroundEvidence {
  grounding::Evidence signals;  // one box for each of the answer's objects
  double raw_confidence = 0;    // of the answer, without a map
  std::string model_fingerprint;
};

struct GroundResult {
  std::string text;
  std::vector<GroundObject> objects;
  std::vector<GroundPoint> points;
  std::vector<LabelMatch> labels;   // in the order of the request; empty: it named none
  std::string model_text;           // the model's own text, in pixels of the resized image
  std::vector<AnswerToken> tokens;  // of model_text, when they were asked for
  // With objects: that they are right and all there are. Without: that the thing is absent; nullopt
  // when the answer was truncated before its first object, which says nothing about absence.
  std::optional<double> confidence;
  bool calibrated = false;  // by a map that was fitted for this model
  std::string advice;       // empty: none
  image::FramePlan frame;
  GroundUsage usage;
  GroundTiming timing;
  std::string language_worker, vision_worker;  // for the log; empty: not called
  std::string request_id;
  std::string model;
  std::string image_id;                    // handle for more prompts; empty: not kept
  bool truncated = false;                  // max_new_tokens was reached
  std::optional<GroundEvidence> evidence;  // when it was wanted
};

}  // namespace chord::gateway
