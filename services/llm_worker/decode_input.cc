#include "services/llm_worker/decode_input.h"

#include <algorithm>
#include <variant>

#include "common/base/errors.h"
#include "common/base/ids.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/text/utf8.h"
#include "services/llm_worker/stop_scan.h"

namespace chord::llm_worker {
namespace {

constexpr size_t kMaxTurns = 64;
constexpr size_t kMaxParts = 16;
constexpr size_t kMaxImages = 1;
constexpr double kMaxKeepSeconds = 86'400;
// All turns together; a conversation of long prompts still fits, a flood does not reach the
// tokenizer.
constexpr int64_t kMaxTextBytes = 8 * limits::kCeilingPromptBytes;

absl::Status CheckText(absl::string_view text) {
  const auto bytes = static_cast<int64_t>(text.size());
  if (bytes > limits::kCeilingPromptBytes) {
    return errors::PromptBytesLimit(bytes, limits::kCeilingPromptBytes);
  }
  if (text.find('\0') != absl::string_view::npos) return errors::PromptHasNul();
  if (!chord::text::IsUtf8(text)) return errors::PromptNotUtf8();
  return absl::OkStatus();
}

absl::Status CheckMessages(const DecodeInput& input) {
  if (input.messages.empty() || input.messages.size() > kMaxTurns) {
    return errors::ParameterInvalid("turns", "a list of 1 to 64 turns");
  }
  int64_t text_bytes = 0;
  int next_image = 0;
  for (const model::Message& message : input.messages) {
    if (message.role != "system" && message.role != "user" && message.role != "assistant") {
      return errors::ParameterInvalid("role", "\"system\", \"user\" or \"assistant\"");
    }
    if (message.parts.empty() || message.parts.size() > kMaxParts) {
      return errors::ParameterInvalid("parts", "a list of 1 to 16 parts");
    }
    for (const model::Part& part : message.parts) {
      if (const auto* text = std::get_if<std::string>(&part)) {
        CHORD_RETURN_IF_ERROR(CheckText(*text));
        text_bytes += static_cast<int64_t>(text->size());
        continue;
      }
      // In order of use and each once: the first embeddings that arrive belong to the first image.
      if (std::get<model::ImagePart>(part).index != next_image++) {
        return errors::ParameterInvalid("image", "each index of images once, in order");
      }
    }
  }
  if (next_image != static_cast<int>(input.images.size())) {
    return errors::ParameterInvalid("image", "each index of images once, in order");
  }
  if (text_bytes > kMaxTextBytes) return errors::PromptBytesLimit(text_bytes, kMaxTextBytes);
  return absl::OkStatus();
}

absl::Status CheckUses(const DecodeInput& input) {
  if (!input.uses.empty() && input.uses.size() != input.images.size()) {
    return errors::ParameterInvalid("uses", "one for each image, or none");
  }
  for (const DecodeInput::Use& use : input.uses) {
    if (!use.key.empty() && use.key.size() != kKeyBytes) {
      return errors::ParameterInvalid("key", "32 bytes, or empty");
    }
    if (!(use.keep_seconds >= 0 && use.keep_seconds <= kMaxKeepSeconds)) {
      return errors::ParameterInvalid("keep_seconds", "a number from 0 to 86400");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckDecoding(const DecodeInput& input) {
  const engine::Randomness& randomness = input.randomness;
  if (!(randomness.temperature >= 0 && randomness.temperature <= 2)) {
    return errors::ParameterInvalid("temperature", "a number from 0 to 2");
  }
  if (!(randomness.top_p >= 0 && randomness.top_p <= 1)) {
    return errors::ParameterInvalid("top_p", "a number from 0 to 1");
  }
  if (input.stop.size() > kMaxStops ||
      std::any_of(input.stop.begin(), input.stop.end(), [](const std::string& stop) {
        return stop.empty() || stop.size() > kMaxStopBytes;
      })) {
    return errors::ParameterInvalid("stop", "at most 4 texts of 1 to 256 bytes");
  }
  if (input.top_tokens < 0 || input.top_tokens > engine::kMaxTop) {
    return errors::ParameterInvalid("top_tokens", "an integer from 0 to 20");
  }
  return absl::OkStatus();
}

std::string LastUserText(const std::vector<model::Message>& messages) {
  std::string out;
  for (auto it = messages.rbegin(); it != messages.rend() && out.empty(); ++it) {
    if (it->role != "user") continue;
    for (const model::Part& part : it->parts) {
      if (const auto* text = std::get_if<std::string>(&part)) out += *text;
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<PreparedPrompt> PreparePrompt(const DecodeInput& input, const PromptFacts& facts) {
  if (!IsTicketId(input.ticket_id)) return errors::TicketUnknown();
  if (input.model_fingerprint != facts.fingerprint) return errors::ModelMismatch();
  if (input.max_new_tokens < 1 || input.max_new_tokens > limits::kCeilingNewTokens) {
    return errors::ParameterInvalid("max_new_tokens", "an integer from 1 to 4096");
  }
  if (input.images.size() > kMaxImages) {
    return errors::ParameterInvalid("images", "a list of at most 1 image");
  }
  CHORD_RETURN_IF_ERROR(CheckMessages(input));
  CHORD_RETURN_IF_ERROR(CheckUses(input));
  CHORD_RETURN_IF_ERROR(CheckDecoding(input));

  PreparedPrompt out;
  std::vector<image::Grid> grids;
  for (const image::FramePlan& plan : input.images) {
    CHORD_RETURN_IF_ERROR(image::VerifyFrame(plan, facts.config->geometry));
    if (plan.tokens >= facts.max_sequence_tokens) {
      return errors::ContextLimit(plan.tokens + input.max_new_tokens, facts.max_sequence_tokens);
    }
    grids.push_back(plan.grid);
    out.embeddings.grid = plan.grid;
    out.embeddings.rows += plan.tokens;
    out.box_request = {plan.resized.width, plan.resized.height, LastUserText(input.messages)};
  }
  out.embeddings.width = facts.config->text.hidden_size;
  out.embeddings.model_fingerprint = facts.fingerprint;

  CHORD_ASSIGN_OR_RETURN(out.prompt, model::EncodePrompt(*facts.chat, *facts.tokenizer,
                                                         *facts.config, input.messages, grids));
  const auto prompt_tokens = static_cast<int64_t>(out.prompt.ids.size());
  const int64_t room = facts.max_sequence_tokens - input.max_new_tokens - out.embeddings.rows;
  const int64_t text_tokens = prompt_tokens - out.embeddings.rows;
  if (text_tokens > room) {
    // With room for an ordinary prompt the text is what is too long; else the whole is.
    constexpr int64_t kTypicalPromptTokens = 64;
    if (room >= kTypicalPromptTokens) return errors::PromptTokensLimit(text_tokens, room);
    return errors::ContextLimit(prompt_tokens + input.max_new_tokens, facts.max_sequence_tokens);
  }
  return out;
}

}  // namespace chord::llm_worker
