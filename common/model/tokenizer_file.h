// tokenizer.json -> plain tables. Takes the layout of spec §5 and its known equivalent spellings,
// refuses everything else: a tokenizer that would split text differently must not load.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace chord::model {

struct TokenizerFile {
  struct Merge {
    int32_t left, right, merged;  // ids
  };
  struct AddedToken {
    int32_t id = -1;
    std::string content;
    bool special = false;
    bool normalized = false;   // looked for in the normalized text
    bool single_word = false;  // not beside a letter, digit or the like
    bool lstrip = false;       // takes the white space before it along
    bool rstrip = false;       // and after it
  };
  std::vector<std::string> tokens;       // id -> the bytes it decodes to; "" for ids not in use
  std::array<int32_t, 256> byte_ids{};   // byte -> id of its one-byte token
  std::vector<Merge> merges;             // by rank; a pair may come twice, the later one counts
  std::vector<AddedToken> added_tokens;  // contents and ids are unique
  bool nfc = true;                       // text is normalized first
};

// The bytes of the file. CHECKPOINT_INVALID: absent, unreadable, or over
// limits::kMaxTokenizerBytes.
absl::StatusOr<std::string> ReadTokenizerFile(const std::string& path);

// CHECKPOINT_INVALID with the field named. Memory is bounded by a small multiple of `json`.
absl::StatusOr<TokenizerFile> ParseTokenizerFile(absl::string_view json);

}  // namespace chord::model
