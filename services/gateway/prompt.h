// The prompt: what is accepted, and how a bare phrase becomes the wording a model was trained on.
// Pure but for LoadChordFile.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord::gateway {

// PROMPT_EMPTY (also when all is blank), PROMPT_TOO_LONG, PROMPT_NOT_UTF8, PROMPT_HAS_NUL.
absl::Status CheckPrompt(absl::string_view prompt, int64_t max_bytes);

// Whether the text holds Chinese, Japanese or Korean writing.
bool HasCjk(absl::string_view utf8);

// The text without blanks around it and without the marks that end a sentence.
absl::string_view WithoutEndMarks(absl::string_view text);

enum class PromptWrapper {
  kNone,  // verbatim
  kJson,  // the wording of the Qwen2.5-VL cookbook (spec §8.4), in the prompt's language
};

// `prompt` passed CheckPrompt. A prompt that already says in which form to answer stays as it is:
// one with the words bbox, bounding box, JSON, coordinates or 坐标, unless such a word is part of
// the name of a thing ("the coordinate axes", "坐标轴", "the JSON file icon").
std::string WrapPrompt(PromptWrapper wrapper, absl::string_view prompt);

// How a model answers a request for several classes.
enum class LabelPasses {
  kOne,       // one prompt that names all classes
  kPerLabel,  // one prompt a class, about the same image: for models that keep no classes apart
};

// chord.json of a model folder: what Chord wants to know beyond the Hugging Face files.
struct ChordFile {
  std::string name;                              // empty: not given
  PromptWrapper wrapper = PromptWrapper::kJson;  // real checkpoints want to be asked for JSON
  LabelPasses label_passes = LabelPasses::kOne;  // "label_passes": "one" or "per_label"
};
// An absent file is the default. CHECKPOINT_INVALID when it is there and wrong.
absl::StatusOr<ChordFile> LoadChordFile(const std::string& model_dir);

}  // namespace chord::gateway
