// A hostile tokenizer.json: refused or loaded, never a crash; what loads must encode and decode.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "common/model/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto tokenizer =
      chord::model::Tokenizer::Parse(absl::string_view(reinterpret_cast<const char*>(data), size));
  if (!tokenizer.ok()) return 0;
  const std::string text = "I'm 12 vases<|im_end|> \n \u82B1\u74F6e\u0301";
  const std::string normal = "I'm 12 vases<|im_end|> \n \u82B1\u74F6\u00E9";
  // A file without a normalizer keeps the text as it is.
  const std::string decoded = tokenizer->Decode(tokenizer->EncodeText(text), false);
  if (decoded != normal && decoded != text) std::abort();
  tokenizer->EncodeWithAddedTokens(text);
  for (int32_t id = -1; id <= tokenizer->size() && id < 10000; ++id) tokenizer->TokenBytes(id);
  return 0;
}
