// A prompt and its answer as plain data: what both doors (gRPC, HTTP) share.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/cancel.h"
#include "common/grounding/confidence.h"
#include "common/image/frame_plan.h"

namespace chord::gateway {

struct GroundObject {
  std::string label;
  image::Box box;  // upright original px
  double confidence = 0;
  bool needs_review = false;
};

struct GroundInput {
  std::string request_id;
  std::string client;          // who asks, for limits: an address; empty: nobody's
  absl::string_view image;     // the file; must outlive the call. Empty when `image_id` is given
  std::string image_id;        // of a kept image
  std::string session_id;      // of a conversation about the image; empty: none
  bool grammar = true;         // decode under the box grammar
  bool want_evidence = false;  // what confidences are computed from
  std::string prompt;
  std::optional<int> max_new_tokens;  // absent: the setting's default
  absl::Time received_at;
  absl::Time deadline = absl::InfiniteFuture();  // the client's own
  CancelToken cancel;                            // fires when the client goes away
  // Text as it is generated; called on a thread of gRPC, never after the call has returned.
  std::function<void(absl::string_view)> on_delta;
  // Each object once, in order, as it is complete: while words still come without a confidence (0),
  // the rest at the end. Called like on_delta, or on the caller's thread before the call returns.
  std::function<void(const GroundObject&)> on_object;
};

// What served the image's share of the work.
enum class Served { kPixels, kEmbeddings, kKv };

struct GroundUsage {
  int prompt_tokens = 0;
  int completion_tokens = 0;
  int decode_steps = 0;
  int image_tokens = 0;
  Served image = Served::kPixels;
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
  double confidence = 0;
  bool calibrated = false;  // by a map that was fitted for this model
  std::string advice;       // empty: none
  image::FramePlan frame;
  GroundUsage usage;
  GroundTiming timing;
  std::string language_worker, vision_worker;  // who answered, for the log; empty: not asked
  std::string request_id;
  std::string model;
  std::string image_id;                    // handle for more prompts; empty: not kept
  bool cut = false;                        // max_new_tokens was reached
  std::optional<GroundEvidence> evidence;  // when it was asked for
};

}  // namespace chord::gateway
