// Conversations -> ids and positions. The checkpoint's chat template is evaluated to text; special
// tokens, image places among them, are found in the template's own text only, never in a user's
// (spec §4.2, §5.7, §6).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/image/frame_plan.h"
#include "common/model/chat_template.h"
#include "common/model/model_config.h"
#include "common/model/tokenizer.h"

namespace chord::model {

// Where one image sits in the ids.
struct ImageSpan {
  int64_t begin = 0;  // index of its first pad id
  image::Grid grid;
  int64_t tokens = 0;
};

struct EncodedPrompt {
  std::vector<int32_t> ids;        // pads expanded
  std::vector<ImageSpan> images;   // in order of appearance
  std::vector<int32_t> positions;  // [3, ids.size()] row major: T, H, W
  // Position of the token generated at index i (i >= ids.size()) is i + rope_delta on all axes.
  int64_t rope_delta = 0;
};

// Renders `messages` + the generation prompt. grids[i] belongs to image i, and each image is used
// once, in order. PARAMETER_INVALID: other images, an unknown role, no message, or the template
// refuses the conversation. CHECKPOINT_INVALID: config.json and tokenizer.json disagree about
// <|image_pad|>, or the template does not write it once for each image.
absl::StatusOr<EncodedPrompt> EncodePrompt(const ChatTemplate& chat, const Tokenizer& tokenizer,
                                           const ModelConfig& config,
                                           absl::Span<const Message> messages,
                                           absl::Span<const image::Grid> grids);

// Positions of spec §4.2 by a walk over image spans. Returned as [3, length].
struct Positions {
  std::vector<int32_t> thw;
  int64_t rope_delta = 0;
};
Positions ComputePositions(int64_t length, absl::Span<const ImageSpan> images, int merge_size);

}  // namespace chord::model
