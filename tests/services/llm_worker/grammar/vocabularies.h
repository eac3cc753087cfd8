// Tokenizers for the tests of the grammar.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/model/tokenizer.h"

namespace chord::grammar {

inline std::string NanoFile() {
  return std::string(CHORD_SOURCE_DIR) + "/models/chord-nano/tokenizer.json";
}
inline const std::vector<int32_t>& NanoEos() {
  static const std::vector<int32_t> kIds = {4084, 4082};
  return kIds;
}
inline constexpr int kNanoVocabulary = 4096;

inline const model::Tokenizer& Nano() {
  static const auto* const kNano = new model::Tokenizer(*model::Tokenizer::Load(NanoFile()));
  return *kNano;
}

// chord-nano's tokenizer, and tokens as a vocabulary of another family would have them: several
// digits in one, and punctuation merged across the grammar's structure and beyond it.
inline const std::vector<std::string>& ManyMerged() {
  static const std::vector<std::string> kTokens = {"00",          "12",
                                                   "448",         "1234",
                                                   "007",         "99999999999",
                                                   "1,",          "0, ",
                                                   ", 1",         ",1",
                                                   "], ",         "]}",
                                                   "]}]",         "1]",
                                                   "12], \"",     "}, {",
                                                   "}]",          "},",
                                                   "}\n]",        "[[",
                                                   "[1",          "[ ",
                                                   "[\n",         "[]\n",
                                                   "[{\"bbox_2",  "\": [1",
                                                   "\"}, {\"",    "\"}]\n```",
                                                   "a\"",         "a\"}",
                                                   "a\"}]",       "\"},{\"b",
                                                   "b\", \"bbox", "\\",
                                                   "\\\"",        "\\u00",
                                                   "\\ud83",      "\\",
                                                   "```json\n[",  "\n```",
                                                   "]\n```",      "`",
                                                   "```",         "{\"",
                                                   "{\"l",        "label\": \"",
                                                   "\": \"",      "\"label\":",
                                                   "    ",        "\n\t",
                                                   "\t{\"",       "\t\t",
                                                   "0\"",         "x\", \"label",
                                                   "[{",          "\"}, {\"bbox_2d\": [12, 3"};
  return kTokens;
}

inline std::string Mapped(const std::string& bytes) {  // the byte-level alphabet, ASCII only
  std::string out;
  for (const char c : bytes) {
    if (c == ' ') {
      out += "\u0120";
    } else if (c == '\n') {
      out += "\u010A";
    } else if (c == '\t') {
      out += "\u0109";
    } else {
      out.push_back(c);
    }
  }
  return out;
}

inline const model::Tokenizer& Merged() {
  static const auto* const kMerged = [] {
    std::ifstream in(NanoFile());
    nlohmann::json file = nlohmann::json::parse(in);
    int id = 5000;
    for (const std::string& token : ManyMerged()) {
      if (!file["model"]["vocab"].contains(Mapped(token)))
        file["model"]["vocab"][Mapped(token)] = id++;
    }
    return new model::Tokenizer(*model::Tokenizer::Parse(file.dump()));
  }();
  return *kMerged;
}
inline constexpr int kMergedVocabulary = 5120;

// Qwen's own vocabulary; nullptr where it is not at hand.
inline const model::Tokenizer* Qwen() {
  static const model::Tokenizer* const kQwen = []() -> const model::Tokenizer* {
    const char* root = std::getenv("CHORD_SHARED");
    const std::string file =
        (root != nullptr ? std::string(root) : std::string(CHORD_SOURCE_DIR) + "/../shared") +
        "/data/qwen-tokenizer/tokenizer.json";
    if (!std::filesystem::exists(file)) return nullptr;
    auto tokenizer = model::Tokenizer::Load(file);
    return tokenizer.ok() ? new model::Tokenizer(*std::move(tokenizer)) : nullptr;
  }();
  return kQwen;
}
inline constexpr int kQwenVocabulary = 152064;
inline const std::vector<int32_t>& QwenEos() {
  static const std::vector<int32_t> kIds = {151645, 151643};
  return kIds;
}

}  // namespace chord::grammar
