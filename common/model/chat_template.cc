#include "common/model/chat_template.h"

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"
#include "common/base/files.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/json/strict_json.h"
#include "common/model/model_folder.h"
#include "common/text/unicode.h"

namespace chord::model {
namespace {

using nlohmann::json;

absl::Status Bad(absl::string_view what) {
  return errors::CheckpointInvalid(absl::StrCat("chat template: ", what));
}

jinja::Value Literal(absl::string_view text) { return jinja::Value::String(text); }

jinja::Value PartValue(const Part& part) {
  jinja::Dict dict;
  if (const auto* text = std::get_if<std::string>(&part)) {
    dict.Set(jinja::Text("type"), Literal("text"));
    dict.Set(jinja::Text("text"),
             jinja::Value::String(text::ToValidUtf8(*text), jinja::Origin::kUser));
  } else {
    dict.Set(jinja::Text("type"), Literal("image"));
  }
  return jinja::Value::MakeDict(std::move(dict));
}

// [{"role": ..., "content": [{"type": "image"}, {"type": "text", "text": ...}]}, ...]
jinja::Value MessagesValue(absl::Span<const Message> messages) {
  std::vector<jinja::Value> list;
  for (const Message& message : messages) {
    std::vector<jinja::Value> content;
    for (const Part& part : message.parts) content.push_back(PartValue(part));
    jinja::Dict dict;
    dict.Set(jinja::Text("role"), Literal(message.role));
    dict.Set(jinja::Text("content"), jinja::Value::MakeList(std::move(content)));
    list.push_back(jinja::Value::MakeDict(std::move(dict)));
  }
  return jinja::Value::MakeList(std::move(list));
}

// How often the template itself wrote the mark of an image.
int CountImages(const jinja::Text& text) {
  int count = 0;
  const absl::string_view bytes = text.bytes();
  size_t begin = 0;
  for (const jinja::Text::Run& run : text.runs()) {
    const absl::string_view part = bytes.substr(begin, run.end - begin);
    begin = run.end;
    if (run.origin != jinja::Origin::kTemplate) continue;
    for (size_t at = 0; (at = part.find(kImagePad, at)) != part.npos; at += sizeof kImagePad - 1) {
      ++count;
    }
  }
  return count;
}

// The member chat_template of a JSON file: a string, or several with names of which the one called
// "default" counts. nullopt when there is none.
absl::StatusOr<std::optional<std::string>> TemplateOf(absl::string_view file, const json& root) {
  const auto found = root.find("chat_template");
  if (found == root.end() || found->is_null()) return std::optional<std::string>();
  const json* chosen = &*found;
  if (found->is_object() && found->contains("default")) {
    chosen = &(*found)["default"];
  } else if (found->is_array()) {
    for (const json& entry : *found) {
      if (entry.is_object() && entry.value("name", json()) == "default" &&
          entry.contains("template")) {
        chosen = &entry["template"];
        break;
      }
    }
  }
  if (chosen->is_string()) return std::optional<std::string>(chosen->get<std::string>());
  return Bad(absl::StrCat(file, ": chat_template is neither a string nor a list with a default"));
}

// Not as strict as with the settings of the model: the rest of these files is not read here.
absl::StatusOr<json> ParseFile(absl::string_view file, absl::string_view content) {
  if (absl::Status bounds =
          CheckJsonBounds(content, {.depth = 32, .string_bytes = limits::kMaxConfigBytes});
      !bounds.ok()) {
    return Bad(absl::StrCat(file, ": ", bounds.message()));
  }
  json root = json::parse(content, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return Bad(absl::StrCat(file, " is not a JSON object"));
  return root;
}

// The special tokens that transformers hands to a template: those of tokenizer_config.json, and
// what the tokenizer's class sets when the file does not name them.
absl::StatusOr<ChatTemplate::SpecialTokens> ReadSpecialTokens(const std::string& dir) {
  static constexpr const char* kNames[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                           "pad_token", "cls_token", "mask_token"};
  ChatTemplate::SpecialTokens out;
  CHORD_ASSIGN_OR_RETURN(const auto content,
                         ReadOptionalFile(dir, "tokenizer_config.json", limits::kMaxConfigBytes));
  json root = json::object();
  if (content) {
    CHORD_ASSIGN_OR_RETURN(root, ParseFile("tokenizer_config.json", *content));
  }
  for (const absl::string_view name : kNames) {
    const auto found = root.find(std::string(name));
    if (found == root.end()) {
      if (name == "eos_token" || name == "unk_token" || name == "pad_token") {
        out.emplace_back(name, "<|endoftext|>");
      }
      continue;
    }
    const json& token =
        found->is_object() && found->contains("content") ? (*found)["content"] : *found;
    if (token.is_string()) out.emplace_back(name, token.get<std::string>());
  }
  return out;
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(absl::string_view source, SpecialTokens tokens) {
  auto parsed = jinja::Template::Parse(source);
  if (!parsed.ok()) return Bad(parsed.status().message());
  ChatTemplate chat(*std::move(parsed), std::move(tokens));
  const Message message{"user", {ImagePart{0}, "find the red apple"}};
  const auto text = chat.Render({&message, 1});
  if (!text.ok()) return Bad(text.status().message());
  if (const int images = CountImages(*text); images != 1) {
    return Bad(
        absl::StrCat("it writes ", kImagePad, " ", images, " times for a message with one image"));
  }
  return chat;
}

absl::StatusOr<jinja::Text> ChatTemplate::Render(absl::Span<const Message> messages,
                                                 absl::Time now) const {
  if (!template_) return Bad("none was loaded");
  std::vector<std::pair<std::string, jinja::Value>> variables = {
      {"messages", MessagesValue(messages)},
      {"tools", jinja::Value::None()},
      {"documents", jinja::Value::None()},
      {"add_generation_prompt", jinja::Value::Bool(true)}};
  for (const auto& [name, token] : tokens_) variables.emplace_back(name, Literal(token));
  auto text = template_->Render(variables, {.now = now});
  if (text.ok()) return text;
  return errors::ParameterInvalid(
      "messages", absl::StrCat("a conversation that the model's chat template takes. It says: ",
                               Printable(text.status().message())));
}

absl::StatusOr<ChatTemplate> LoadChatTemplate(const std::string& path) {
  CHORD_ASSIGN_OR_RETURN(const std::string dir, ResolveModelFolder(path));
  // In the order in which the processor of transformers 5 prefers them; its tokenizer's is the last
  // resort.
  for (const char* file : {"processor_config.json", "chat_template.json", "chat_template.jinja",
                           "tokenizer_config.json"}) {
    CHORD_ASSIGN_OR_RETURN(const auto content,
                           ReadOptionalFile(dir, file, limits::kMaxConfigBytes));
    if (!content.has_value()) continue;
    std::optional<std::string> source = content;
    if (!absl::EndsWith(file, ".jinja")) {
      CHORD_ASSIGN_OR_RETURN(const json root, ParseFile(file, *content));
      CHORD_ASSIGN_OR_RETURN(source, TemplateOf(file, root));
    }
    if (!source.has_value()) continue;
    CHORD_ASSIGN_OR_RETURN(ChatTemplate::SpecialTokens tokens, ReadSpecialTokens(dir));
    return ChatTemplate::Parse(*source, std::move(tokens));
  }
  return Bad(
      "none found; looked for chat_template.json, chat_template.jinja and the chat_template of "
      "processor_config.json and tokenizer_config.json");
}

}  // namespace chord::model
