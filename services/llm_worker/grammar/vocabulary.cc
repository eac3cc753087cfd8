#include "services/llm_worker/grammar/vocabulary.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "common/text/ascii.h"

namespace chord::grammar {
namespace {

// Whether an answer of the grammar can contain the byte: JSON white space and UTF-8.
bool IsWritten(int byte) {
  return (byte >= 0x20 || text::IsJsonBlank(byte)) && byte != 0x7F && byte != 0xC0 &&
         byte != 0xC1 && byte < 0xF5;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Vocabulary>> Vocabulary::Create(
    const model::Tokenizer& tokenizer, int size, absl::Span<const int32_t> eos) {
  if (size <= 0 || size > limits::kMaxVocabularyIds) {
    return errors::CheckpointInvalid(absl::StrCat("vocabulary of ", size, " ids"));
  }
  if (eos.empty()) return errors::CheckpointInvalid("no end token");
  for (const int32_t id : eos) {
    if (id < 0 || id >= size) {
      return errors::CheckpointInvalid(
          absl::StrCat("end token ", id, " is outside the vocabulary"));
    }
  }
  std::unique_ptr<Vocabulary> out(new Vocabulary(&tokenizer, size, eos));
  std::vector<std::pair<absl::string_view, int32_t>> tokens;
  std::array<bool, 256> has_token{};
  for (int32_t id = 0; id < std::min(size, tokenizer.size()); ++id) {
    const absl::string_view bytes = out->Bytes(id);
    if (bytes.empty()) continue;
    if (bytes.size() == 1) has_token[static_cast<uint8_t>(bytes[0])] = true;
    tokens.emplace_back(bytes, id);
  }
  // With these any answer of the language can be written, so that no mask is ever empty.
  for (int byte = 0; byte < 256; ++byte) {
    if (IsWritten(byte) && !has_token[static_cast<size_t>(byte)]) {
      return errors::CheckpointInvalid(absl::StrCat("no token for byte ", byte));
    }
  }
  out->trie_ = VocabularyTrie(std::move(tokens));
  return out;
}

bool Vocabulary::IsEos(int32_t id) const {
  return std::find(eos_.begin(), eos_.end(), id) != eos_.end();
}

absl::string_view Vocabulary::Bytes(int32_t id) const {
  if (id < 0 || id >= size_ || tokenizer_->IsAdded(id) || IsEos(id)) return "";
  return tokenizer_->TokenBytes(id);
}

}  // namespace chord::grammar
