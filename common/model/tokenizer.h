// Byte-level BPE of the Qwen family, read from tokenizer.json (spec §5).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace chord::model {

// Immutable after loading; all methods are thread-safe.
class Tokenizer {
 public:
  // `path` names a tokenizer.json. CHECKPOINT_INVALID for anything but the layout of spec §5.
  static absl::StatusOr<Tokenizer> Load(const std::string& path);
  // The same from the file's content.
  static absl::StatusOr<Tokenizer> Parse(absl::string_view json);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // `text` must be valid UTF-8 (malformed input is replaced by U+FFFD first).
  // Ordinary text: added tokens are never matched, not even the ones that are not special.
  std::vector<int32_t> EncodeText(absl::string_view text) const;
  // As transformers does by default: added tokens anywhere in `text` become their ids.
  std::vector<int32_t> EncodeWithAddedTokens(absl::string_view text) const;

  // A stretch of a text up to byte `end`; added tokens are looked for in trusted ones only.
  struct Run {
    size_t end = 0;
    bool trusted = false;
  };
  // Added tokens that lie within trusted text become their ids, all other text is ordinary, also
  // across the runs' borders. The runs are in order and reach to the end of `text`.
  std::vector<int32_t> EncodeRuns(absl::string_view text, absl::Span<const Run> runs) const;

  // The bytes of one id ("" for ids of padding rows); may be a part of a character.
  absl::string_view TokenBytes(int32_t id) const;
  bool IsSpecial(int32_t id) const;  // special=true in tokenizer.json
  // Special, and yet words of an answer: the markers that Qwen2-VL writes names and boxes with
  // (<|object_ref_start|>, <|box_start|>, ...), without which its boxes are no boxes.
  bool IsAnswerMarker(int32_t id) const;
  bool IsAdded(int32_t id) const;
  // Id of an added token such as "<|im_start|>", or -1.
  int32_t AddedTokenId(absl::string_view content) const;
  // Ill-formed UTF-8 becomes U+FFFD (one per maximal subpart).
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special) const;
  // One more than the highest id that decodes to something.
  int32_t size() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Turns ids into text as they come: holds an incomplete UTF-8 tail back until it is whole. Special
// tokens that are skipped do not include an answer's markers.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer* tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}
  std::string Push(int32_t id);
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;  // not owned
  bool skip_special_;
  std::string tail_;
};

}  // namespace chord::model
