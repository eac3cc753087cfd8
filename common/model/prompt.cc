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

struct MarkerIds {
  int32_t turn_start, turn_end, vision_start, vision_end, image_pad;
};

absl::StatusOr<MarkerIds> FindMarkers(const Tokenizer& tokenizer, const ModelConfig& config) {
  MarkerIds ids{};
  const std::pair<absl::string_view, int32_t*> wanted[] = {
      {"<|im_start|>", &ids.turn_start},       {"<|im_end|>", &ids.turn_end},
      {"<|vision_start|>", &ids.vision_start}, {"<|vision_end|>", &ids.vision_end},
      {"<|image_pad|>", &ids.image_pad},
  };
  for (const auto& [content, id] : wanted) {
    *id = tokenizer.AddedTokenId(content);
    if (*id < 0) {
      return errors::CheckpointInvalid(absl::StrCat("tokenizer.json has no added token ", content));
    }
  }
  if (ids.image_pad != config.image_token_id) {
    return errors::CheckpointInvalid(absl::StrCat("config.json gives image_token_id ",
                                                  config.image_token_id, ", tokenizer.json ",
                                                  ids.image_pad));
  }
  return ids;
}

class Writer {
 public:
  Writer(const Tokenizer& tokenizer, const MarkerIds& ids, const ModelConfig& config,
         absl::Span<const image::Grid> grids)
      : tokenizer_(tokenizer), ids_(ids), config_(config), grids_(grids) {}

  // `head` and what follows it up to the next id are one segment for the tokenizer (spec §5.7).
  void OpenTurn(absl::string_view role) {
    Id(ids_.turn_start);
    segment_ = absl::StrCat(role, "\n");
  }
  void Text(absl::string_view text) { absl::StrAppend(&segment_, text); }
  void CloseTurn() {
    Id(ids_.turn_end);
    segment_ = "\n";
  }

  absl::Status Image(int index) {
    if (index != static_cast<int>(out_.images.size()) || index >= static_cast<int>(grids_.size())) {
      return errors::ParameterInvalid("messages",
                                      "a conversation that shows each image once, in order");
    }
    const image::Grid& grid = grids_[static_cast<size_t>(index)];
    const int merge = config_.geometry.merge_size;
    if (grid.h < 1 || grid.w < 1 || merge < 1 || grid.h % merge != 0 || grid.w % merge != 0) {
      return errors::EmbeddingMismatch("grid");
    }
    const int64_t tokens = grid.tokens(merge);
    Id(ids_.vision_start);
    if (tokens > kMaxPromptTokens - size()) return errors::ContextLimit(tokens, kMaxPromptTokens);
    out_.images.push_back({size(), grid, tokens});
    out_.ids.insert(out_.ids.end(), static_cast<size_t>(tokens), ids_.image_pad);
    Id(ids_.vision_end);
    return absl::OkStatus();
  }

  absl::StatusOr<EncodedPrompt> Finish() {
    Flush();
    if (out_.images.size() != grids_.size()) {
      return errors::ParameterInvalid("messages",
                                      "a conversation that shows each image once, in order");
    }
    if (size() > kMaxPromptTokens) return errors::ContextLimit(size(), kMaxPromptTokens);
    Positions positions = ComputePositions(size(), out_.images, config_.geometry.merge_size);
    out_.positions = std::move(positions.thw);
    out_.rope_delta = positions.rope_delta;
    return std::move(out_);
  }

 private:
  int64_t size() const { return static_cast<int64_t>(out_.ids.size()); }
  void Flush() {
    const std::vector<int32_t> ids = tokenizer_.EncodeText(segment_);
    out_.ids.insert(out_.ids.end(), ids.begin(), ids.end());
    segment_.clear();
  }
  void Id(int32_t id) {
    Flush();
    out_.ids.push_back(id);
  }

  const Tokenizer& tokenizer_;
  const MarkerIds& ids_;
  const ModelConfig& config_;
  absl::Span<const image::Grid> grids_;
  std::string segment_;  // text since the last id
  EncodedPrompt out_;
};

}  // namespace

absl::StatusOr<EncodedPrompt> EncodePrompt(const ChatTemplate& chat, const Tokenizer& tokenizer,
                                           const ModelConfig& config,
                                           absl::Span<const Message> messages,
                                           absl::Span<const image::Grid> grids) {
  CHORD_ASSIGN_OR_RETURN(const MarkerIds ids, FindMarkers(tokenizer, config));
  Writer writer(tokenizer, ids, config, grids);
  if (messages.empty())
    return errors::ParameterInvalid("messages", "a list of at least one message");
  if (messages[0].role != "system" && chat.default_system) {
    writer.OpenTurn("system");
    writer.Text(*chat.default_system);
    writer.CloseTurn();
  }
  for (const Message& message : messages) {
    if (message.role != "system" && message.role != "user" && message.role != "assistant") {
      return errors::ParameterInvalid("role", "system, user or assistant");
    }
    writer.OpenTurn(message.role);
    for (const Part& part : message.parts) {
      if (const auto* text = std::get_if<std::string>(&part)) {
        writer.Text(*text);
      } else {
        CHORD_RETURN_IF_ERROR(writer.Image(std::get<ImagePart>(part).index));
      }
    }
    writer.CloseTurn();
  }
  writer.OpenTurn("assistant");
  return writer.Finish();
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
