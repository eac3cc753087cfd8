// A checkpoint's own chat template: conversations -> prompt text. The template is evaluated
// (common/jinja), as transformers does it, so text and ids are those of the
// reference, whatever the template writes and under whichever condition.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/jinja/template.h"

namespace chord::model {

struct ImagePart {
  int index = 0;  // into the images of the request, in order of use
};
using Part = std::variant<std::string, ImagePart>;
struct Message {
  std::string role;  // "system", "user" or "assistant"
  std::vector<Part> parts;
};

// What stands for one image in a prompt's text; the prompt has it once for each image token.
inline constexpr char kImagePad[] = "<|image_pad|>";

// Immutable, thread-safe, cheap to copy.
class ChatTemplate {
 public:
  // Names and texts of special tokens that a template may write: "eos_token" -> "<|im_end|>".
  using SpecialTokens = std::vector<std::pair<std::string, std::string>>;

  ChatTemplate() = default;  // of no model: Render fails

  // CHECKPOINT_INVALID, with the line: not Jinja, a construct that is not supported, a template
  // that refuses a prompt about one image, or that writes no place for the image.
  static absl::StatusOr<ChatTemplate> Parse(absl::string_view source, SpecialTokens tokens);

  // The prompt's text with the generation prompt. The text of `messages` keeps its origin: special
  // tokens are looked for in the template's own text only. PARAMETER_INVALID: the template refuses
  // the conversation. `now` is what strftime_now tells.
  absl::StatusOr<jinja::Text> Render(absl::Span<const Message> messages,
                                     absl::Time now = absl::Now()) const;

 private:
  ChatTemplate(jinja::Template parsed, SpecialTokens tokens)
      : template_(std::move(parsed)), tokens_(std::move(tokens)) {}

  std::optional<jinja::Template> template_;
  SpecialTokens tokens_;
};

// The template of processor_config.json, chat_template.json, chat_template.jinja or
// tokenizer_config.json, the first that has one. CHECKPOINT_INVALID as above, or when none has.
absl::StatusOr<ChatTemplate> LoadChatTemplate(const std::string& dir);

}  // namespace chord::model
