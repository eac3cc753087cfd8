// Any text as a chat template: refused or rendered within its bounds, never a crash, and no byte of
// a user's text is taken for the template's own.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "common/jinja/template.h"

namespace {

using chord::jinja::Dict;
using chord::jinja::Origin;
using chord::jinja::Text;
using chord::jinja::Value;

// A character that no template of the corpus and no operation on it makes.
constexpr absl::string_view kUser = "\u4f60 \u4f60";

Value Message(absl::string_view role) {
  Dict text;
  text.Set(Text("type"), Value::String("text"));
  text.Set(Text("text"), Value::String(kUser, Origin::kUser));
  Dict image;
  image.Set(Text("type"), Value::String("image"));
  Dict message;
  message.Set(Text("role"), Value::String(role));
  message.Set(Text("content"), Value::MakeList({Value::MakeDict(image), Value::MakeDict(text)}));
  return Value::MakeDict(message);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view source(reinterpret_cast<const char*>(data), size);
  const auto parsed = chord::jinja::Template::Parse(source);
  if (!parsed.ok()) return 0;
  const auto text = parsed->Render(
      {{"messages", Value::MakeList({Message("system"), Message("user"), Message("assistant")})},
       {"tools", Value::None()},
       {"add_generation_prompt", Value::Bool(true)}},
      {.max_steps = 20'000});
  if (!text.ok()) return 0;
  const bool in_source = source.find("\u4f60") != source.npos ||
                         source.find("4f60") != source.npos || source.find("4F60") != source.npos ||
                         source.find("\\") != source.npos;
  size_t begin = 0;
  for (const Text::Run& run : text->runs()) {
    if (run.end <= begin || run.end > text->size()) std::abort();
    const absl::string_view part = absl::string_view(text->bytes()).substr(begin, run.end - begin);
    if (run.origin == Origin::kTemplate && !in_source && part.find("\u4f60") != part.npos)
      std::abort();
    begin = run.end;
  }
  if (begin != text->size()) std::abort();
  return 0;
}
