// One request to the workers and their answer, as plain data.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/cache_tier.h"
#include "common/image/frame_plan.h"
#include "common/obs/trace.h"
#include "services/gateway/answer_builder.h"
#include "services/gateway/chat.h"

namespace chord::gateway {

struct WorkerRequest {
  // How the language worker may keep what is computed of the image.
  struct Keeping {
    std::string key;  // 32 bytes
    bool pin = false;
    absl::Duration time;  // after the last use
    bool pushed = true;   // embeddings are on their way, whatever the worker has
  };
  std::string ticket, request_id, model_fingerprint;
  obs::TraceContext trace;      // of the gateway's span
  std::vector<ChatTurn> turns;  // oldest first; one part is the image's place
  DecodeOptions decode;
  image::FramePlan plan;
  int max_new_tokens = 0;
  bool grammar = true;
  std::optional<Keeping> keeping;  // nullopt: nothing is kept
  absl::string_view image;         // the file; must outlive the calls
  std::string language_worker;     // its name: the target of the embeddings
};

struct WorkerAnswer {
  ModelAnswer model;
  int prompt_tokens = 0;
  int completion_tokens = 0;
  int decode_steps = 0;
  int cached_tokens = 0;            // of the prompt's
  std::vector<AnswerToken> tokens;  // empty where the worker's numbers do not fit its text
  std::optional<CacheTier> tier;    // nullopt: the worker keeps nothing of images
  bool encoded = false;             // a vision worker was called
  absl::Duration decode_queue, prefill, first_token, decode;
  // Zero when the vision worker did not return them, and when there was none.
  absl::Duration encode_queue, pixels, vision;
};

}  // namespace chord::gateway
