// The prompt: what is accepted, and how a bare phrase becomes the wording a model was trained on.
// Pure but for LoadChordFile.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord::gateway {

// Well-formed UTF-8: no overlong forms, no surrogates, nothing beyond U+10FFFF.
bool IsUtf8(absl::string_view text);

// PROMPT_EMPTY (also when all is blank), PROMPT_TOO_LONG, PROMPT_NOT_UTF8, PROMPT_HAS_NUL.
absl::Status CheckPrompt(absl::string_view prompt, int64_t max_bytes);

// Whether the text holds Chinese, Japanese or Korean writing.
bool HasCjk(absl::string_view utf8);

enum class PromptWrapper {
  kNone,  // verbatim
  kJson,  // the wording of the Qwen2.5-VL cookbook (spec §8.4), in the prompt's language
};

// `prompt` passed CheckPrompt. A prompt that already says how to answer (it mentions bbox, JSON,
// coordinates, 坐标) stays as it is.
std::string WrapPrompt(PromptWrapper wrapper, absl::string_view prompt);

// chord.json of a model folder: what Chord wants to know beyond the Hugging Face files.
struct ChordFile {
  std::string name;                              // empty: not given
  PromptWrapper wrapper = PromptWrapper::kJson;  // real checkpoints want to be asked for JSON
};
// An absent file is the default. CHECKPOINT_INVALID when it is there and wrong.
absl::StatusOr<ChordFile> LoadChordFile(const std::string& model_dir);

}  // namespace chord::gateway
