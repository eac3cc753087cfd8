// Conversations -> ids and positions. The prompt is a list of pieces: template pieces carry ids,
// user pieces are encoded with special parsing off, an image's place is an index and never a
// search (spec §4.2, §5.7, §6).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/image/frame_plan.h"
#include "common/model/model_config.h"
#include "common/model/tokenizer.h"

namespace chord::model {

struct ImagePart {
  int index = 0;  // into the images of the request, in order of use
};
using Part = std::variant<std::string, ImagePart>;
struct Message {
  std::string role;  // "system", "user" or "assistant"
  std::vector<Part> parts;
};

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

// What the checkpoint's chat template amounts to. Recognised by its content, in
// processor_config.json, chat_template.json, chat_template.jinja or tokenizer_config.json (the
// first that has one), all of the ChatML form of spec §6.1.
struct ChatTemplate {
  // Used when no system message leads; nullopt: then there is none.
  std::optional<std::string> default_system = "You are a helpful assistant.";
};
absl::StatusOr<ChatTemplate> LoadChatTemplate(const std::string& dir);

// Renders `messages` + the generation prompt. grids[i] belongs to image i.
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
