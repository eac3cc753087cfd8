// Renders templates for tests/parity/chat_template_parity.py. Reads lines of JSON,
//   {"template": ..., "messages": [...]}
// and answers each with {"text": ..., "ids": [...]} or {"error": ...}. The argument names a
// tokenizer.json.
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "common/jinja/template.h"
#include "common/model/tokenizer.h"
#include "tests/common/jinja/json_value.h"

namespace {

using nlohmann::ordered_json;

ordered_json Answer(const chord::model::Tokenizer& tokenizer, const ordered_json& request) {
  namespace jinja = chord::jinja;
  const auto parsed = jinja::Template::Parse(request["template"].get<std::string>());
  if (!parsed.ok()) return {{"error", std::string(parsed.status().message())}};
  const auto text = parsed->Render(jinja::Variables(request["messages"]));
  if (!text.ok()) return {{"error", std::string(text.status().message())}};
  std::vector<chord::model::Tokenizer::Run> runs;
  for (const auto& run : text->runs()) {
    runs.push_back({run.end, run.origin == jinja::Origin::kTemplate});
  }
  return {{"text", text->bytes()}, {"ids", tokenizer.EncodeRuns(text->bytes(), runs)}};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: jinja_tool TOKENIZER_JSON\n");
    return 2;
  }
  const auto tokenizer = chord::model::Tokenizer::Load(argv[1]);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
    return 1;
  }
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << Answer(*tokenizer, ordered_json::parse(line)).dump() << "\n";
  }
  return 0;
}
