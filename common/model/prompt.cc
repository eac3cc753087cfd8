#include "common/model/prompt.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/checked_math.h"
#include "common/base/errors.h"
#include "common/base/status_macros.h"

namespace chord::model {
namespace {

// Positions are int32 and a prompt's arrays take 16 bytes a token. No model reads that far.
constexpr int64_t kMaxPromptTokens = 1 << 24;

absl::Status CheckImageToken(const Tokenizer& tokenizer, const ModelConfig& config) {
  const int32_t id = tokenizer.AddedTokenId(kImagePad);
  if (id < 0) {
    return errors::CheckpointInvalid(absl::StrCat("tokenizer.json has no added token ", kImagePad));
  }
  if (id != config.image_token_id) {
    return errors::CheckpointInvalid(absl::StrCat("config.json gives image_token_id ",
                                                  config.image_token_id, ", tokenizer.json ", id));
  }
  return absl::OkStatus();
}

// Roles are known, images are used once each and in order.
absl::Status CheckMessages(absl::Span<const Message> messages, size_t images) {
  if (messages.empty()) {
    return errors::ParameterInvalid("messages", "a list of at least one message");
  }
  size_t used = 0;
  for (const Message& message : messages) {
    if (message.role != "system" && message.role != "user" && message.role != "assistant") {
      return errors::ParameterInvalid("role", "system, user or assistant");
    }
    for (const Part& part : message.parts) {
      const auto* image = std::get_if<ImagePart>(&part);
      if (image == nullptr) continue;
      if (image->index < 0 || static_cast<size_t>(image->index) != used || used >= images) {
        return errors::ParameterInvalid("messages",
                                        "a conversation that shows each image once, in order");
      }
      ++used;
    }
  }
  if (used == images) return absl::OkStatus();
  return errors::ParameterInvalid("messages",
                                  "a conversation that shows each image once, in order");
}

absl::Status CheckGrids(absl::Span<const image::Grid> grids, int merge) {
  int64_t total = 0;
  for (const image::Grid& grid : grids) {
    if (grid.h < 1 || grid.w < 1 || merge < 1 || grid.h % merge != 0 || grid.w % merge != 0) {
      return errors::EmbeddingMismatch("grid");
    }
    const int64_t tokens = grid.tokens(merge);
    if (tokens > kMaxPromptTokens - total) return errors::ContextLimit(tokens, kMaxPromptTokens);
    total += tokens;
  }
  return absl::OkStatus();
}

// The ids of the rendered text: one <|image_pad|> for each image still.
std::vector<int32_t> EncodeRendered(const Tokenizer& tokenizer, const jinja::Text& text) {
  std::vector<Tokenizer::Run> runs;
  for (const jinja::Text::Run& run : text.runs()) {
    runs.push_back({run.end, run.origin == jinja::Origin::kTemplate});
  }
  return tokenizer.EncodeRuns(text.bytes(), runs);
}

}  // namespace

absl::StatusOr<EncodedPrompt> EncodePrompt(const ChatTemplate& chat, const Tokenizer& tokenizer,
                                           const ModelConfig& config,
                                           absl::Span<const Message> messages,
                                           absl::Span<const image::Grid> grids) {
  const int merge = config.geometry.merge_size;
  CHORD_RETURN_IF_ERROR(CheckImageToken(tokenizer, config));
  CHORD_RETURN_IF_ERROR(CheckMessages(messages, grids.size()));
  CHORD_RETURN_IF_ERROR(CheckGrids(grids, merge));
  CHORD_ASSIGN_OR_RETURN(const jinja::Text text, chat.Render(messages));

  EncodedPrompt out;
  for (const int32_t id : EncodeRendered(tokenizer, text)) {
    if (id != config.image_token_id) {
      out.ids.push_back(id);
      continue;
    }
    const size_t index = out.images.size();
    const int64_t tokens = index < grids.size() ? grids[index].tokens(merge) : 0;
    const auto begin = static_cast<int64_t>(out.ids.size());
    out.images.push_back({begin, index < grids.size() ? grids[index] : image::Grid{}, tokens});
    out.ids.insert(out.ids.end(), static_cast<size_t>(tokens), id);
  }
  if (out.images.size() != grids.size()) {
    return errors::CheckpointInvalid(absl::StrCat("chat template: it writes ", kImagePad, " ",
                                                  out.images.size(), " times for ", grids.size(),
                                                  " images"));
  }
  const auto size = static_cast<int64_t>(out.ids.size());
  if (size > kMaxPromptTokens) return errors::ContextLimit(size, kMaxPromptTokens);
  Positions positions = ComputePositions(size, out.images, merge);
  out.positions = std::move(positions.thw);
  out.rope_delta = positions.rope_delta;
  return out;
}

Positions ComputePositions(int64_t length, absl::Span<const ImageSpan> images, int merge_size) {
  Positions out;
  if (length <= 0) return out;
  out.thw.resize(static_cast<size_t>(3 * length));
  int32_t* const t = out.thw.data();
  int32_t* const h = t + length;
  int32_t* const w = h + length;
  int64_t at = 0;
  int32_t next = 0;
  const auto text_until = [&](int64_t end) {
    for (; at < std::min(end, length); ++at, ++next) t[at] = h[at] = w[at] = next;
  };
  for (const ImageSpan& span : images) {
    text_until(span.begin);
    const int rows = span.grid.h / merge_size, columns = span.grid.w / merge_size;
    for (int y = 0; y < rows; ++y) {
      for (int x = 0; x < columns && at < length; ++x, ++at) {
        t[at] = next;
        h[at] = next + y;
        w[at] = next + x;
      }
    }
    next += std::max(rows, columns);
  }
  text_until(length);
  out.rope_delta = next - length;
  return out;
}

}  // namespace chord::model
