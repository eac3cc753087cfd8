// Any bytes as a user's text: no added token comes out, and decoding gives the text back in its
// normal form, in one go and as a stream.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "common/model/tokenizer.h"
#include "common/text/unicode.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using chord::model::Tokenizer;
  static const Tokenizer* const kTokenizer = new Tokenizer(
      *Tokenizer::Load(std::string(CHORD_SOURCE_DIR) + "/models/chord-nano/tokenizer.json"));
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string normal = chord::text::Nfc(chord::text::ToValidUtf8(text));
  Require(chord::text::Nfc(normal) == normal);

  const auto ids = kTokenizer->EncodeText(text);
  chord::model::StreamDecoder stream(kTokenizer, /*skip_special=*/false);
  std::string streamed;
  for (const int32_t id : ids) {
    Require(!kTokenizer->IsAdded(id));
    streamed += stream.Push(id);
  }
  streamed += stream.Finish();
  Require(kTokenizer->Decode(ids, false) == normal);
  Require(streamed == normal);
  // Between added tokens, which cut before normalization, nothing may get lost either.
  const auto with_added = kTokenizer->EncodeWithAddedTokens(text);
  Require(chord::text::Nfc(kTokenizer->Decode(with_added, false)) == normal);
  return 0;
}
