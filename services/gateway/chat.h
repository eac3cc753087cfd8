// A conversation and how its answer is decoded, as plain data: what a chat frontend hands to the
// core beside the image.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace chord::gateway {

struct TurnPart {
  bool image = false;  // the image's place in the text; `text` is empty then
  std::string text;
};

struct ChatTurn {
  enum class Role { kSystem, kUser, kAssistant };
  Role role = Role::kUser;
  std::vector<TurnPart> parts;  // at least one; no two texts in a row
};

// common/engine/sampler.h says what the numbers mean.
struct Sampling {
  float temperature = 0;  // 0: the most probable token
  float top_p = 1;
  uint64_t seed = 0;
};

struct DecodeOptions {
  Sampling sampling;
  std::vector<std::string> stop;  // the answer ends before the first of these
  bool want_tokens = false;       // the answer's tokens with their log probabilities
  int top_tokens = 0;             // and the most probable others at each place, 0 – 20
};

struct TokenAlternative {
  std::string bytes;  // may be part of a character
  double log_probability = 0;
};

// One token of an answer that wrote something.
struct AnswerToken {
  std::string text;            // the bytes that it added to the answer, whole characters
  double log_probability = 0;  // natural, before any mask; 0 of tokens that the grammar appended
  std::vector<TokenAlternative> top;
};

}  // namespace chord::gateway
